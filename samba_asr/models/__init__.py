"""Encoder, heads, the whole model, and the folder that a model travels in."""
