"""Definitions that all tokenizers share: the numbering of ids, the protocol, and the conversion of units to text.

Ids are the same for every kind of tokenizer and every head of the model:

    0        `<blk>`  the CTC blank; `encode` never returns it, and `decode` drops it
    1        `<unk>`  units that the training text lacks; decodes to ⁇
    2 .. v-1 units; `▁` in a unit is a space, and only the first character of a unit can be one

So for every kind, a unit that starts with `▁` starts a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, Self

BLANK_ID, UNK_ID = 0, 1
BOUNDARY = BLANK_ID
"""The id that starts and ends a text for decoders and language models.  It is the CTC blank's, which no text contains."""
BLANK, UNK, SPACE = "<blk>", "<unk>", "▁"
UNK_SURFACE = "⁇"  # shown for <unk>; as in sentencepiece, without its spaces


class Tokenizer(Protocol):
    """Conversion of text to ids and back.  The ids are defined at the top of this file."""

    @property
    def KIND(self) -> str:
        """As in the configuration."""
        ...

    @property
    def FILE(self) -> str:
        """Name of its file in a model folder."""
        ...

    @property
    def vocab_size(self) -> int:
        """v, with the blank and <unk>: the width of a CTC head."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, each in 1 .. v-1; [] for an empty text."""
        ...

    def spellings(self, word: str) -> list[list[int]]:
        """Return the spellings of `word` after another word, as ids, the usual one first.  The first unit starts with `▁`.

        [] for a word that needs <unk>, and for a text that is not one word (empty, or with a space in it).
        """
        ...

    def known(self, words: Iterable[str]) -> set[str]:
        """Return those of a few words that have a spelling.  A lexicon that nobody has needed is not read for them."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`.  Blanks are dropped.  IndexError for an id outside 0 .. v-1."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the unit of each id as in the vocabulary, with `▁` for a space."""
        ...

    def save(self, folder: Path | str) -> Path:
        """Write the tokenizer's one file into `folder` (created if needed) and return its path."""
        ...

    @classmethod
    def load(cls, folder: Path | str) -> Self: ...


def same_pieces(one: Tokenizer, other: Tokenizer) -> bool:
    """Return whether ids mean the same in both tokenizers."""
    ours, theirs = (some.pieces(range(some.vocab_size)) for some in (one, other))
    return ours == theirs


def same_units(lm: Tokenizer, recognizer: Tokenizer) -> bool:
    """Return whether a language model has the recognizer's units, so that it can score every unit of a search."""
    return recognizer.KIND != "phone" and same_pieces(recognizer, lm)


def clean(text: str) -> str:
    """Collapse runs of white space to one space, and strip the ends."""
    return " ".join(text.replace(SPACE, " ").split())


def surface(pieces: Iterable[str]) -> str:
    """Join units into text.  Spaces are stripped from the whole, not from single pieces, where they separate words."""
    shown = (("" if p == BLANK else UNK_SURFACE if p == UNK else p) for p in pieces)
    return clean("".join(shown))


def is_word(text: str) -> bool:
    """Return whether `text` is one word: not empty, without spaces."""
    return bool(text) and clean(text) == text and " " not in text


def checked(i: int, vocab_size: int) -> int:
    if not 0 <= i < vocab_size:
        raise IndexError(f"token id {i} is outside 0 .. {vocab_size - 1}")
    return int(i)


def write(folder: Path | str, name: str, content: bytes) -> Path:
    """Write `content` to the file `name` in `folder` (created if needed) and return its path."""
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
