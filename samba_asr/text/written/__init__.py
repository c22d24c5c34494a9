"""The written form of recognized words: punctuation, case, and numbers as digits.

The spoken form is what a model recognizes and what is scored.  The written form is what people read.  It is made from the
spoken words and never changes them.
"""
