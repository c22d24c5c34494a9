"""The interface of pretraining objectives, which train an encoder on speech without texts, and what they share.

Shapes: b batch, t feature frames, u encoder frames (t / model.subsampling), m mels.
"""

from __future__ import annotations

import dataclasses
import random

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.config import Config, ModelConfig, PretrainConfig
from samba_asr.errors import UserError
from samba_asr.models.acoustic import AcousticModel
from samba_asr.streaming import mask
from samba_asr.training.objectives import transforms
from samba_asr.training.objectives.base import BatchFields, Objective, draw_block
from samba_asr.training.score import Score

Sums = dict[str, tuple[float, int]]
"""By name: a sum, and the number of its terms (such as frames)."""


def new_encoder(config: ModelConfig) -> AcousticModel:
    """Make an encoder without self-conditioning, which would need texts."""
    return AcousticModel(dataclasses.replace(config, self_conditioning=()))


class Pretraining(Objective):
    """An objective of an `AcousticModel`, registered under a name for `pretrain.objective`.

    Validation adds the results of `measure` over all batches, and computes means.
    """

    net: AcousticModel

    def __init__(self, net: AcousticModel, config: Config):
        super().__init__(net)
        self.config, self.pretrain = config.model, config.pretrain
        self.transforms = transforms.voice_transforms(config.augment)

    def draw_block(self, rng: random.Random) -> int:
        return draw_block(self.config.blocks, self.config.full_block, rng)

    @torch.no_grad()
    def features(self, batch: BatchFields, augment: bool, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return normalized log-mel (b, t, m), zeros in the padding, and lengths (b,)."""
        front = self.net.features
        features, lengths = front(batch.audio.unsqueeze(-1), batch.lengths)
        features = mask(features, lengths)
        if augment:
            features = transforms.apply(self.transforms, features, lengths, generator, front)
        return features, lengths

    def stacked(self, features: Tensor) -> Tensor:
        """Return the feature frames of each encoder frame, joined: (b, u, subsampling m)."""
        n = self.config.subsampling
        u = features.shape[1] // n
        return features[:, : u * n].reshape(len(features), u, -1).float()

    def units(self, batch: BatchFields) -> Tensor:
        """Return the number of encoder frames of each utterance (b,), at its original speed."""
        return batch.frames if batch.frames is not None else batch.lengths // self.net.stride

    def measure(self, batch: BatchFields, *, block: int, generator: torch.Generator) -> Sums:
        """Measure the predictions for a batch in evaluation mode, with random draws from `generator`."""
        raise NotImplementedError

    def score(self, means: dict[str, float]) -> Score:
        """Return the score that ranks checkpoints, from the means over all validation data."""
        raise NotImplementedError

    def describe(self, means: dict[str, float]) -> str:
        """Return the means as text for the log."""
        raise NotImplementedError


def check_spans(config: PretrainConfig) -> None:
    """Raise UserError for a span or a share of hidden frames that cannot be."""
    if config.span < 1:
        raise UserError(f"pretrain.span={config.span}: give 1 or more")
    if not 0 < config.share < 1:
        raise UserError(f"pretrain.share={config.share}: give the share of masked frames, between 0 and 1")


def draw_hidden(lengths: Tensor, config: PretrainConfig, generator: torch.Generator | None) -> Tensor:
    """Return (b, u) bool on the CPU: which of the `lengths` (b,) encoder frames are hidden, in spans.

    The share of hidden frames is `share` if no spans overlap.  Every row with frames has at least one hidden frame.
    """
    span, lengths = config.span, lengths.cpu()
    u = int(lengths.max()) if len(lengths) else 0
    valid = torch.arange(u) < lengths[:, None]
    begins = (torch.rand(len(lengths), u, generator=generator) < config.share / span) & valid
    one = (torch.rand(len(lengths), generator=generator) * lengths).long()
    begins |= (torch.arange(u) == one[:, None]) & ~begins.any(1, keepdim=True)
    reached = F.max_pool1d(F.pad(begins.float(), (span - 1, 0))[:, None], span, 1)[:, 0] > 0 if u else begins
    return reached & valid


def cover(hidden: Tensor, n: int, t: int) -> Tensor:
    """Return (b, t, 1) bool: the feature frames of the hidden encoder frames (b, u), n of each."""
    return F.pad(hidden.repeat_interleave(n, 1), (0, t - n * hidden.shape[1]))[..., None]


def sum_of_frames(values: Tensor, rows: Tensor, units: Tensor) -> Tensor:
    """Return (b,): the mean of the `values` (n,) of each utterance, times its units (b,); 0 without values.

    rows: (n,) the utterance of each value.
    """
    zero = values.new_zeros(len(units))
    count = zero.index_add(0, rows, torch.ones_like(values)).clamp(min=1)
    return zero.index_add(0, rows, values) / count * units
