"""Pretraining by reconstruction: of hidden frames, or of the next frame.

These are the two objectives of "Never train from scratch" (I. Amos, J. Berant and A. Gupta, arXiv 2310.02980) for real-valued
data: a denoising one for models that read both ways, next-step prediction for causal ones, with the L1 distance.  What is hidden
is replaced by 0, the mean of normalized features.  The paper gives the mask as another input channel; here a learned vector is
added behind the subsampling, where a frame is hidden, so the encoder that is kept has nothing of it.
Shapes: b batch, t feature frames, u encoder frames (t / n), n model.subsampling, m mels, d d_model.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from samba_asr.config import Config
from samba_asr.models.acoustic import AcousticModel
from samba_asr.streaming import valid_mask
from samba_asr.training.objectives.base import BatchFields, Outcome, objectives
from samba_asr.training.objectives.pretraining import Pretraining, Sums, check_spans, cover, draw_hidden, sum_of_frames
from samba_asr.training.score import Score


class Reconstruction(Pretraining):
    """Mean absolute error of predicted features, per predicted frame times the encoder frames of the utterance.

    A subclass defines `guess`.
    """

    def __init__(self, net: AcousticModel, config: Config):
        super().__init__(net, config)
        model = config.model
        self.head = nn.Linear(model.d_model, model.subsampling * model.features.mels)

    def guess(
        self, batch: BatchFields, *, block: int, generator: torch.Generator | None, augment: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows (k,), predictions (k, n m) and features (k, n m) of the k predicted encoder frames."""
        raise NotImplementedError

    def _errors(self, batch: BatchFields, **how) -> tuple[Tensor, Tensor]:
        """Return the rows (k,) and mean absolute errors (k,) of the predicted frames."""
        rows, guess, truth = self.guess(batch, **how)
        return rows, (guess.float() - truth).abs().mean(-1)

    def compute(self, batch: BatchFields, *, block: int, augment: bool, generator: torch.Generator | None) -> Outcome:
        rows, errors = self._errors(batch, block=block, augment=augment, generator=generator)
        units = self.units(batch)
        return Outcome(sum_of_frames(errors, rows, units), {}, units)

    def measure(self, batch: BatchFields, *, block: int, generator: torch.Generator) -> Sums:
        _, errors = self._errors(batch, block=block, generator=generator)
        return {"absolute": (float(errors.double().sum()), len(errors))}

    def score(self, means: dict[str, float]) -> Score:
        return Score("absolute error", means["absolute"], "deviations")

    def describe(self, means: dict[str, float]) -> str:
        return f"mean absolute error {means['absolute']:.4f} of the predicted features"


@objectives.register("masked")
class Masked(Reconstruction):
    """Reconstruction of hidden spans, from what lies around them inside the block, and before it."""

    def __init__(self, net: AcousticModel, config: Config):
        super().__init__(net, config)
        check_spans(config.pretrain)
        self.mark = nn.Parameter(torch.zeros(config.model.d_model))  # of hidden frames

    def hidden(self, lengths: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `draw_hidden`."""
        return draw_hidden(lengths, self.pretrain, generator)

    def guess(self, batch, *, block, generator, augment=False):
        features, lengths = self.features(batch, augment, generator)
        n = self.config.subsampling
        hidden = self.hidden(lengths // n, generator).to(features.device)  # (b, u)
        truth = self.stacked(features)
        seen = features.masked_fill(cover(hidden, n, features.shape[1]), 0)
        frames, lengths = self.net.subsampling(seen, lengths)
        u = hidden.shape[1]
        frames = frames[:, :u] + hidden[..., None] * self.mark.to(frames.dtype)
        frames, _ = self.net.encoder(frames, lengths, block)  # (b, u, d)
        rows, _ = hidden.nonzero(as_tuple=True)
        return rows, self.head(frames[hidden]), truth[:, :u][hidden]


@objectives.register("causal")
class Causal(Reconstruction):
    """Prediction of the features of the next encoder frame.

    The encoder always runs in blocks of one frame, whatever `model.blocks` says: in longer ones its layers read ahead.  It is
    meant for encoders that are used so (model.mixer.bidirectional=false).
    """

    def draw_block(self, rng: random.Random) -> int:
        return 1

    def guess(self, batch, *, block, generator, augment=False):
        features, lengths = self.features(batch, augment, generator)
        frames, lengths = self.net.encoder(*self.net.subsampling(features, lengths), 1)  # (b, u, d)
        u = max(frames.shape[1] - 1, 0)
        predicted = valid_mask(lengths - 1, u)  # the last frame has no next one
        rows, _ = predicted.nonzero(as_tuple=True)
        return rows, self.head(frames[:, :u][predicted]), self.stacked(features)[:, 1 : u + 1][predicted]
