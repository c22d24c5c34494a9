"""The forms of a text, and the models that have a written one."""

from __future__ import annotations

from samba_asr.text.units import SPACE, UNK_SURFACE, Tokenizer

TEXTS = ("written", "spoken")
"""The forms of a text."""

AHEAD = 16  # words of the next segments that are read where nobody waits for the text


def writes_english(tokenizer: Tokenizer) -> bool:
    """Return whether a model can write the most frequent words of English, and no letters of other alphabets."""
    letters = "".join(tokenizer.pieces(range(tokenizer.vocab_size))).replace(SPACE, "").replace(UNK_SURFACE, "")
    if any(c.isalpha() and not c.isascii() for c in letters):
        return False
    upper = tokenizer.known(word.upper() for word in _FREQUENT)
    lower = [word for word in _FREQUENT if word.upper() not in upper]
    return not lower or tokenizer.known(lower) == set(lower)


_FREQUENT = ("the", "and", "of", "to", "a", "in", "that", "he", "it", "was")
