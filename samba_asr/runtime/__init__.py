"""Runtimes: from samples to encoder frames and log-probabilities, for many sessions at a time."""
