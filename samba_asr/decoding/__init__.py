"""Search: frames of log-probabilities in, hypotheses with token times out; no text, no configuration files."""
