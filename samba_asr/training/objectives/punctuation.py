"""The objective of the punctuation network: cross-entropy of the mark after each word, and of the word's case."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F

from samba_asr.models.punctuator import Punctuator
from samba_asr.text.written.marks import CASES, MARKS
from samba_asr.training.objectives.base import BatchFields, Objective, Outcome, draw_block


class PunctuationObjective(Objective):
    """-ln p of marks and cases.  The audio of a batch has the words' features, its tokens are classes (`class_of`).

    The case after the end of a sentence is no target, because it is a capital whatever the word is.
    It is not registered by name, because it is not an objective of speech.
    """

    net: Punctuator
    parts = ("mark", "case")

    def draw_block(self, rng: random.Random) -> int:
        return draw_block(self.net.config.blocks, self.net.config.full_block, rng)

    def compute(self, batch: BatchFields, *, block: int, augment: bool, generator: torch.Generator | None) -> Outcome:
        logits = self.net.logits(batch.audio, batch.lengths, block).float().transpose(1, 2)  # (b, c, t)
        cases, marks = logits.split([len(CASES), len(MARKS)], dim=1)
        valid = torch.arange(batch.tokens.shape[1], device=batch.tokens.device) < batch.token_lengths[:, None]
        mark = batch.tokens % len(MARKS)
        case = batch.tokens // len(MARKS)  # len(CASES): no target
        mark = F.cross_entropy(marks, mark, reduction="none").masked_fill(~valid, 0).sum(1)
        target = case.masked_fill((case == len(CASES)) | ~valid, -1)
        case = F.cross_entropy(cases, target, reduction="none", ignore_index=-1).sum(1)
        return Outcome(mark + case, {"mark": mark, "case": case}, batch.token_lengths)


def class_of(case: int, mark: int) -> int:
    """Return the token for a word of a case (`len(CASES)`: no target) with a mark after it."""
    return case * len(MARKS) + mark
