"""Words of texts that a tokenizer cannot write: named, and read in its own letters where they differ in case alone."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from samba_asr.data.manifest import Utterance
from samba_asr.errors import UserError
from samba_asr.text.units import UNK_ID, Tokenizer

logger = logging.getLogger(__name__)

MOST = 0.9  # share of unknown words from which texts are of another language, or other letters
CASES: dict[str, Callable[[str], str]] = {"capitals": str.upper, "small letters": str.lower}


class Unknown(NamedTuple):
    words: Counter[str]  # those that cannot be written
    total: int  # of all words

    @property
    def share(self) -> float:
        return self.words.total() / max(self.total, 1)

    @property
    def names(self) -> str:
        """The most frequent ones."""
        return ", ".join(word for word, _ in self.words.most_common(3))


def unknown_words(texts: Iterable[str], tokenizer: Tokenizer) -> Unknown:
    counts = Counter(word for text in texts for word in text.split())
    return Unknown(Counter({w: n for w, n in counts.items() if UNK_ID in tokenizer.encode(w)}), counts.total())


def check_known(texts: Iterable[str], tokenizer: Tokenizer) -> None:
    """UserError if the tokenizer can write hardly any word of the training texts; a line in the log for a few."""
    unknown = unknown_words(texts, tokenizer)
    if unknown.share > MOST:
        raise UserError(
            f"the tokenizer can write only {unknown.total - unknown.words.total()} of the {unknown.total} words of the "
            f"training texts (not {unknown.names}): write them in its letters, or train with a tokenizer of their own "
            "(new_tokenizer, --new-tokenizer)"
        )
    if unknown.words:
        logger.warning(
            "the tokenizer knows no %s, %d words of the training texts in all: they are learned as <unk>; for phones, add "
            "them to lexicon.txt",
            unknown.names,
            unknown.words.total(),
        )


def in_the_case_of(tokenizer: Tokenizer, *sets: Sequence[Utterance]) -> list[list[Utterance]]:
    """The sets as they are, or with their texts in the case that the tokenizer writes.

    The case changes where most words of the first set are unknown as they stand, and half of these are not in that case.
    """
    texts = [u.text for u in sets[0]]
    share = unknown_words(texts, tokenizer).share
    if share > 0.5:
        for name, change in CASES.items():
            if unknown_words(map(change, texts), tokenizer).share < share / 2:
                logger.warning("the model writes %s: the texts are read in these", name)
                return [[dataclasses.replace(u, text=change(u.text)) for u in some] for some in sets]
    return [list(some) for some in sets]
