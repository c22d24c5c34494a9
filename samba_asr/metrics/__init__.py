"""Quality of transcripts: error rates with alignments and intervals (`wer`), and report files (`report`)."""
