"""The interface of objectives that need speech alone and train the encoder that recognition begins with."""

from __future__ import annotations

import dataclasses

import torch

from samba_asr.config import ModelConfig
from samba_asr.models.encoder import AcousticModel
from samba_asr.training.objectives.base import Batch, Objective
from samba_asr.training.score import Score

Sums = dict[str, tuple[float, int]]
"""By name: a sum, and the number of frames (or of other things) that it is over."""


def new_encoder(config: ModelConfig) -> AcousticModel:
    """An encoder without self-conditioning, which has no text to learn from."""
    return AcousticModel(dataclasses.replace(config, self_conditioning=()))


class Pretraining(Objective):
    """An objective of an `AcousticModel`, registered under a name that `pretrain.name` chooses.

    Validation adds what `measure` gives over all batches and divides.
    """

    net: AcousticModel

    def measure(self, batch: Batch, *, block: int, generator: torch.Generator) -> Sums:
        """How well a batch is predicted, in evaluation; random choices are draws of `generator`."""
        raise NotImplementedError

    def score(self, means: dict[str, float]) -> Score:
        """The one number that checkpoints are ranked by, of the means over all validation data."""
        raise NotImplementedError

    def describe(self, means: dict[str, float]) -> str:
        """The means, for the log."""
        raise NotImplementedError
