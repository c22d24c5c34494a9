"""What every tokenizer shares: the numbering of ids, the protocol, and how units become text.

Ids are the same for every kind of tokenizer and every head of the model:

    0        `<blk>`  the CTC blank; no text is ever encoded to it, and it decodes to nothing
    1        `<unk>`  what the training text never showed; decodes to ⁇
    2 .. v-1 units; `▁` in a unit is a space, and only a unit's first character can be one

So a unit that begins with `▁` begins a word, whatever the kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, Self

BLANK_ID, UNK_ID = 0, 1
BLANK, UNK, SPACE = "<blk>", "<unk>", "▁"
UNK_SURFACE = "⁇"  # what a reader sees for <unk>; sentencepiece's own choice, without its spaces


class Tokenizer(Protocol):
    """Text to ids and back; see the head of this file for the meaning of the ids."""

    KIND: str  # as configuration has it
    vocab_size: int  # v, with the blank and <unk>: the width of a CTC head

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, each in 1 .. v-1; [] for an empty text."""
        ...

    def spellings(self, word: str) -> list[list[int]]:
        """The ways `word` is written behind another word, the usual one first; the first unit begins with `▁`.

        [] for a word that cannot be written without <unk>, or is no word (empty, or with a space in it).
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, which may hold blanks (they are dropped) but must be below v (IndexError)."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The unit of each id as it is written in the vocabulary, `▁` for a space."""
        ...

    def save(self, folder: Path | str) -> Path:
        """Write the tokenizer's one file into `folder` (made if absent) and return its path."""
        ...

    @classmethod
    def load(cls, folder: Path | str) -> Self: ...


def same_pieces(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether ids mean the same in both."""
    ours, theirs = (some.pieces(range(some.vocab_size)) for some in (one, other))
    return ours == theirs


def clean(text: str) -> str:
    """Runs of white space as one space, none at the ends."""
    return " ".join(text.replace(SPACE, " ").split())


def surface(pieces: Iterable[str]) -> str:
    """Join units into text.  A piece may not be stripped alone: only the whole shows which spaces are at an end."""
    shown = (("" if p == BLANK else UNK_SURFACE if p == UNK else p) for p in pieces)
    return clean("".join(shown))


def is_word(text: str) -> bool:
    """Not empty, and no space in it."""
    return bool(text) and clean(text) == text and " " not in text


def checked(i: int, vocab_size: int) -> int:
    if not 0 <= i < vocab_size:
        raise IndexError(f"token id {i} is outside 0 .. {vocab_size - 1}")
    return int(i)


def write(folder: Path | str, name: str, content: bytes) -> Path:
    """`content` as the file `name` of `folder`, which is made if absent; its path."""
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
