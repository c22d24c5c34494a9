"""How fast: training, transcription, and other recognisers beside ours; each measured in a process of its own."""
