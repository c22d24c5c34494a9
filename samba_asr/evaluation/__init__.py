"""Evaluation of models on test sets: error rates (`evaluate`), tuning of language models, calibration, pictures."""
