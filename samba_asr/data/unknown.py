"""Words of texts that a tokenizer cannot encode: a check with examples, and a change of case if that is the only difference."""

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

MOST = 0.9  # share of unknown words above which texts are in another language or alphabet
CASES: dict[str, Callable[[str], str]] = {"capitals": str.upper, "small letters": str.lower}


class Unknown(NamedTuple):
    """Unknown words of texts."""

    words: Counter[str]  # words that cannot be encoded
    total: int  # number of all words

    @property
    def share(self) -> float:
        return self.words.total() / max(self.total, 1)

    @property
    def names(self) -> str:
        """The most frequent unknown words."""
        return ", ".join(word for word, _ in self.words.most_common(3))


def unknown_words(texts: Iterable[str], tokenizer: Tokenizer) -> Unknown:
    counts = Counter(word for text in texts for word in text.split())
    return Unknown(Counter({w: n for w, n in counts.items() if UNK_ID in tokenizer.encode(w)}), counts.total())


def check_known(texts: Iterable[str], tokenizer: Tokenizer) -> None:
    """Raise UserError if the tokenizer can encode hardly any word of the training texts; log a warning for a few words."""
    unknown = unknown_words(texts, tokenizer)
    if unknown.share > MOST:
        raise UserError(
            f"the tokenizer can encode only {unknown.total - unknown.words.total()} of the {unknown.total} words of the "
            f"training texts (not {unknown.names}): write them in its letters, or train with a tokenizer of their own "
            "(new_tokenizer, --new-tokenizer)"
        )
    if unknown.words:
        logger.warning(
            "the tokenizer cannot encode %s, %d words of the training texts in all: they are trained as <unk>; for phones, "
            "add them to lexicon.txt",
            unknown.names,
            unknown.words.total(),
        )


def in_the_case_of(tokenizer: Tokenizer, *sets: Sequence[Utterance]) -> list[list[Utterance]]:
    """Return the sets, with their texts in the case that the tokenizer writes if needed.

    The case is changed if most words of the first set are unknown, and the change makes at least half of them known.
    """
    texts = [u.text for u in sets[0]]
    share = unknown_words(texts, tokenizer).share
    if share > 0.5:
        for name, change in CASES.items():
            if unknown_words(map(change, texts), tokenizer).share < share / 2:
                logger.warning("the model writes %s: the texts are converted to them", name)
                return [[dataclasses.replace(u, text=change(u.text)) for u in some] for some in sets]
    return [list(some) for some in sets]
