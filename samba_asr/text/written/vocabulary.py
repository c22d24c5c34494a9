"""Features of words for the punctuation network: a number of its own for each frequent word, and hashed prefixes and suffixes.

A word's features are rows of one table of embeddings, which are summed (bags of subwords: P. Bojanowski et al., "Enriching word
vectors with subword information", 2017).  Row 0 is padding; the words of the vocabulary follow; the last `hashes` rows are
shared by affixes.  So a name that no book has still has its ending.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np

FEATURES = 7
"""Features of a word: the word itself, its prefixes and suffixes of 2 to 4 letters.  A shorter word is its own affix."""

MOST = 200_000  # words whose features are kept


class Vocabulary:
    """Map from words to their features.  words: the frequent ones.  hashes: rows for affixes."""

    def __init__(self, words: Sequence[str], hashes: int):
        self.words, self.hashes = list(words), hashes
        self._ids = {word: i for i, word in enumerate(self.words, 1)}
        self._known: dict[str, tuple[int, ...]] = {}

    @property
    def size(self) -> int:
        """Number of rows of the table."""
        return 1 + len(self.words) + self.hashes

    def features(self, words: Iterable[str]) -> np.ndarray:
        """Return (t, FEATURES) int64 rows for lower-case words.  The first is 0 for a word outside the vocabulary."""
        return np.array([self._features(word) for word in words], dtype=np.int64).reshape(-1, FEATURES)

    def _features(self, word: str) -> tuple[int, ...]:
        if (found := self._known.get(word)) is None:
            bare = word.removesuffix("'")
            affixes = [f"{bare[:n]}-" for n in (2, 3, 4)] + [f"-{bare[-n:]}" for n in (2, 3, 4)]
            found = (self._ids.get(bare, 0), *map(self._hash, affixes))
            if len(self._known) < MOST:
                self._known[word] = found
        return found

    def _hash(self, affix: str) -> int:
        return 1 + len(self.words) + zlib.crc32(affix.encode()) % self.hashes


PAUSES = (0.06, 0.14, 0.22, 0.34, 0.5, 0.74, 1.06)
"""Edges, in seconds, between the classes of a pause after a word.  Class 0: unknown; 1: below the first edge."""


def pause_classes(seconds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the classes (t,) int64 of the pauses after words; NaN is an unknown pause."""
    seconds = np.asarray(seconds, dtype=np.float64)
    return np.where(np.isnan(seconds), 0, 1 + np.searchsorted(PAUSES, seconds, side="right")).astype(np.int64)
