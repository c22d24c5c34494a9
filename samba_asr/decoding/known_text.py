"""Forced alignment of a known text: its words with their times.

The words are returned as given.  Their case and punctuation do not matter.  If the model has no pronunciation for a word, one
is predicted (`samba_asr.text.pronunciation`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from samba_asr.decoding.align import align
from samba_asr.decoding.base import BLANK
from samba_asr.decoding.hotwords import guess_pronunciations
from samba_asr.decoding.transcript import Word, words_at
from samba_asr.errors import UserError
from samba_asr.text.pronunciation import Speller
from samba_asr.text.units import SPACE, Tokenizer

logger = logging.getLogger(__name__)

SHORT, FEW = 1.4, 8
"""A text is much too short if the speech has more than `SHORT` times its units, plus `FEW`."""


@dataclass(frozen=True)
class KnownWord:
    """A word as given, and its units."""

    text: str
    tokens: tuple[int, ...]


def spell(text: str, tokenizer: Tokenizer) -> list[KnownWord]:
    """Split a text into words and their units; words of punctuation alone are ignored.

    UserError for a text that is empty, or has a word that the model cannot write.
    """
    given = [word for word in text.split() if any(c.isalnum() for c in word)]
    if not given:
        raise UserError("the text to align is empty: give the words that were said")
    spelled = Speller(tokenizer, guess_pronunciations).spell(given)
    if unknown := [word for word in given if word not in spelled]:
        raise UserError(
            f"this model cannot write {', '.join(repr(w) for w in unknown[:5])}: use the characters of its training text "
            "(capitals? numbers as words?)"
        )
    tokens = [tuple(token for part in spelled[word] for token in part.ways[0]) for word in given]
    # Where units are characters, the space is a unit by itself, and no text begins with it.
    tokens[0] = tokens[0][tokenizer.pieces(tokens[0][:1]) == [SPACE] :]
    return [KnownWord(word, some) for word, some in zip(given, tokens, strict=True)]


def place(words: Sequence[KnownWord], log_probs: np.ndarray, tokenizer: Tokenizer, frame: float) -> tuple[Word, ...]:
    """Return each word with its times and its confidence by the CTC head, not calibrated.

    log_probs: (t, v) of the audio.  frame: seconds of an encoder frame.
    A text that is much shorter than the speech gets a warning.  UserError for a text that is too long for the audio.
    """
    ids = [token for word in words for token in word.tokens]
    spans = align(log_probs, ids)
    best = log_probs.argmax(-1)
    said = int(((best != BLANK) & (best != np.roll(best, 1))).sum())  # units by the greedy search
    if said > SHORT * len(ids) + FEW:
        logger.warning(
            "the text has %d units, but about %d are said: it seems to lack words, so the times may be wrong",
            len(ids),
            said,
        )
    left = iter(zip(tokenizer.pieces(ids), spans, strict=True))
    sounds = [[span for piece, span in islice(left, len(word.tokens)) if piece != SPACE] for word in words]
    return words_at([word.text for word in words], sounds, frame)
