"""Speed of training and transcription, also of other recognizers; each measurement runs in its own process."""
