"""The training task of a pronunciation dictionary: words in batches, a tenth of them held out."""

from __future__ import annotations

import itertools
import logging
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from samba_asr.config import Config
from samba_asr.data.bucketing import bucket_batches, derive_seed
from samba_asr.data.dataset import Batch
from samba_asr.errors import UserError
from samba_asr.metrics.wer import ErrorCounts, score, total
from samba_asr.models.pronouncer import REPEAT, Pronouncer, padded, spelt
from samba_asr.text.lexicon import Lexicon, Pronunciation
from samba_asr.training.objectives import Objective
from samba_asr.training.objectives.pronunciation import PronunciationObjective
from samba_asr.training.score import Score
from samba_asr.training.tasks import Validated

logger = logging.getLogger(__name__)


def held_out(word: str) -> bool:
    """Return whether `word` is in the fixed tenth of all words for validation.  WALK and WALK'S are always together."""
    return zlib.crc32(word.removesuffix("'S").removesuffix("S'").encode()) % 10 == 0


class WordSet:
    """Training pronunciations as batches: `audio` has letters, `tokens` has phones."""

    def __init__(self, lexicon: Lexicon, config: Config):
        """UserError if no pronunciation remains."""
        self.config, self.phones = config, lexicon.phones
        self.left_out: Counter[str] = Counter()
        ids = {phone: i for i, phone in enumerate(self.phones, 1)}
        self.items: list[tuple[str, list[int], list[int]]] = []
        for word, some in lexicon.items():
            for one in some:
                letters, phones = spelt(word), [ids[phone] for phone in one]
                twins = sum(a == b for a, b in itertools.pairwise(phones))
                if len(phones) + twins > REPEAT * len(letters):
                    self.left_out["with more phones than their letters can have"] += 1
                else:
                    self.items.append((word, letters, phones))
        if not self.items:
            raise UserError("the training lexicon is empty")

    @property
    def fingerprint(self) -> int:
        return derive_seed(len(self.items), zlib.crc32(repr(self.items[::997]).encode()))

    def epoch(self, epoch: int, *, ranks: int = 1) -> WordEpoch:
        batches = bucket_batches(
            [len(letters) for _, letters, _ in self.items],
            batch_seconds=self.config.pronouncer.batch_letters,
            buckets=self.config.data.buckets,
            seed=derive_seed("batches", self.config.train.seed, epoch),
            ranks=ranks,
        )
        return WordEpoch(self, batches)


class WordEpoch:
    """Batches of one epoch.  `epoch[k]` is batch k of all ranks' batches."""

    def __init__(self, data: WordSet, batches: list[list[int]]):
        self.data, self.batches = data, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, k: int) -> Batch:
        words, letters, phones = zip(*(self.data.items[i] for i in self.batches[k]), strict=True)
        letters, lengths = padded(letters)
        return Batch(letters, lengths, *padded(phones), list(words))


class PronunciationTask:
    """Task of a lexicon.  Score: phone error rate on the held-out words, against each word's nearest pronunciation."""

    def __init__(self, config: Config, lexicon: Lexicon):
        self.config = config
        self.data = WordSet(Lexicon({w: some for w, some in lexicon.items() if not held_out(w)}), config)
        self.valid = {word: some for word, some in lexicon.items() if held_out(word)}

    def describe(self) -> str:
        return f"{len(self.data.items)} pronunciations to learn from, {len(self.valid)} words held out"

    def new_net(self) -> Pronouncer:
        return Pronouncer(self.config.pronouncer, self.data.phones)

    def objective(self, net: nn.Module) -> Objective:
        return PronunciationObjective(net)

    def begin(self, objective: Objective, device: torch.device, new: bool) -> None:
        pass

    def validate(self, objective, ranks, dtype, check, where):
        model = objective.net
        began, training = time.monotonic(), model.training
        model.eval()
        try:
            check()
            phones, words = error_rates(model, self.valid)
        finally:
            model.train(training)
        logger.info(
            "%s: %.2f %% of phones wrong, %.1f %% of words (%.0f s)", where, phones, words, time.monotonic() - began
        )
        return Validated(Score("phone error rate", phones, "%"), {"phones": phones, "words": words})


def error_rates(model: Pronouncer, words: Mapping[str, Sequence[Pronunciation]]) -> tuple[float, float]:
    """Return the percentage of wrong phones (insertions, deletions, substitutions), and of words with an error."""
    guessed = model.pronounce(words)
    guesses = {word: guessed.get(word, ((),))[0] for word in words}
    pairs = {(word, one): guesses[word] for word, some in words.items() for one in some}
    references = {f"{word} {n}": " ".join(one) for n, (word, one) in enumerate(pairs)}
    report = score(references, dict(zip(references, map(" ".join, pairs.values()), strict=True)))
    nearest: dict[str, ErrorCounts] = {}
    for (word, _), found in zip(pairs, report.utterances, strict=True):
        best = nearest.get(word)
        if best is None or found.counts.wer < best.wer:
            nearest[word] = found.counts
    wrong = sum(guess not in words[word] for word, guess in guesses.items())
    return 100 * total(nearest.values()).wer, 100 * wrong / max(len(words), 1)
