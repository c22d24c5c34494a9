"""The objective of language models: prediction of each unit of a text, and of its end, from the units before it."""

from __future__ import annotations

import torch

from samba_asr.config import Config
from samba_asr.models.lm import MambaLm
from samba_asr.training.objectives.base import BatchFields, Objective, Outcome, objectives


@objectives.register("language_model")
class LanguageModelObjective(Objective):
    """-ln p of lines of text.  It is divided by the units of the text, without its end."""

    net: MambaLm

    def __init__(self, net: MambaLm, config: Config):
        super().__init__(net)

    def compute(self, batch: BatchFields, *, block: int, augment: bool, generator: torch.Generator | None) -> Outcome:
        return Outcome(self.net.loss(batch.tokens, batch.token_lengths), {}, batch.token_lengths)
