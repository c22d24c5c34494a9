"""The interface of pretraining objectives: they train an encoder on speech without texts."""

from __future__ import annotations

import dataclasses

import torch

from samba_asr.config import ModelConfig
from samba_asr.models.encoder import AcousticModel
from samba_asr.training.objectives.base import BatchFields, Objective
from samba_asr.training.score import Score

Sums = dict[str, tuple[float, int]]
"""By name: a sum, and the number of its terms (such as frames)."""


def new_encoder(config: ModelConfig) -> AcousticModel:
    """Make an encoder without self-conditioning, which would need texts."""
    return AcousticModel(dataclasses.replace(config, self_conditioning=()))


class Pretraining(Objective):
    """An objective of an `AcousticModel`, registered under a name for `pretrain.name`.

    Validation adds the results of `measure` over all batches, and computes means.
    """

    net: AcousticModel

    def measure(self, batch: BatchFields, *, block: int, generator: torch.Generator) -> Sums:
        """Measure the predictions for a batch in evaluation mode, with random draws from `generator`."""
        raise NotImplementedError

    def score(self, means: dict[str, float]) -> Score:
        """Return the score that ranks checkpoints, from the means over all validation data."""
        raise NotImplementedError

    def describe(self, means: dict[str, float]) -> str:
        """Return the means as text for the log."""
        raise NotImplementedError
