"""Batches of lines of text, for a language model.

b lines, u units
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from samba_asr.config import Config
from samba_asr.data.bucketing import bucket_batches, derive_seed, sorted_batches
from samba_asr.data.dataset import Batch, round_up
from samba_asr.errors import UserError
from samba_asr.text.units import Tokenizer


class TextSet:
    """Lines of text as unit ids in one array: 42 million words of books take 130 MB.

    Empty lines and lines longer than lm.longest units are left out; `left_out` counts them.
    """

    def __init__(self, lines: Iterable[str], tokenizer: Tokenizer, config: Config):
        """UserError if no line remains."""
        self.config = config
        self.left_out: Counter[str] = Counter()
        pieces, lengths = [], []
        for line in lines:
            ids = tokenizer.encode(line)
            if not ids:
                self.left_out["without text"] += 1
            elif len(ids) > config.lm.longest:
                self.left_out[f"longer than lm.longest={config.lm.longest} units"] += 1
            else:
                pieces.append(np.array(ids, dtype=np.uint16 if tokenizer.vocab_size < 1 << 16 else np.int32))
                lengths.append(len(ids))
        if not pieces:
            raise UserError("the training text of the language model is empty")
        self.ids, self.lengths = np.concatenate(pieces), np.array(lengths)
        self.ends = np.cumsum(self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def fingerprint(self) -> int:
        return derive_seed(
            len(self), int(np.bitwise_xor.reduce(self.ids.astype(np.int64) * np.arange(1, len(self.ids) + 1)))
        )

    def line(self, i: int) -> np.ndarray:
        return self.ids[self.ends[i] - self.lengths[i] : self.ends[i]]

    def epoch(self, epoch: int, *, ranks: int = 1) -> TextEpoch:
        """Return epoch `epoch`: the next lm.lines lines.  After all lines were used, they are shuffled again."""
        n = min(self.config.lm.lines, len(self))
        turns = len(self) // n
        turn, part = divmod(epoch - 1, turns)
        order = np.random.default_rng(derive_seed("lines", self.config.train.seed, turn)).permutation(len(self))
        chosen = order[part * n : (part + 1) * n]
        batches = bucket_batches(
            self.lengths[chosen] + 1,
            batch_seconds=self.config.lm.batch_units,
            buckets=self.config.data.buckets,
            seed=derive_seed("batches", self.config.train.seed, epoch),
            ranks=ranks,
        )
        return TextEpoch(self, [[int(chosen[i]) for i in batch] for batch in batches])

    def in_order(self, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        """Yield this rank's share of all lines, the longest first."""
        for batch in sorted_batches(self.lengths + 1, batch_seconds=self.config.lm.batch_units)[rank::ranks]:
            yield self.batch(batch)

    def batch(self, lines: Sequence[int], *, few_sizes: bool = False) -> Batch:
        """Return a batch of units (b, u), padded with 0, without audio."""
        lengths = torch.from_numpy(self.lengths[list(lines)].astype(np.int64))
        u = int(lengths.max())
        tokens = torch.zeros(len(lines), round_up(u, 4) if few_sizes else u, dtype=torch.long)
        for row, i in enumerate(lines):
            tokens[row, : self.lengths[i]] = torch.from_numpy(self.line(i).astype(np.int64))
        nothing = torch.zeros(len(lines), dtype=torch.long)
        return Batch(torch.zeros(len(lines), 0), nothing, tokens, lengths, [f"line {i + 1}" for i in lines])


class TextEpoch:
    """Batches of one epoch.  `epoch[k]` is batch k of all ranks' batches."""

    def __init__(self, data: TextSet, batches: list[list[int]]):
        self.data, self.batches = data, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, k: int) -> Batch:
        return self.data.batch(self.batches[k], few_sizes=True)
