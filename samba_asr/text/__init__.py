"""Text to token ids and back (`tokenizer`), and rules that make texts comparable (`normalize`)."""
