"""Models over test sets: error rates (`evaluate`), weights of a language model, calibration, pictures."""
