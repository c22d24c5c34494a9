"""How good a transcript is: error rates with alignments and intervals (`wer`), and files about them (`report`)."""
