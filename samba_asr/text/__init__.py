"""Text to ids and back (`tokenizer`), and the named rules that make texts comparable (`normalize`)."""
