"""Pretraining by denoising: a diffusion model of log-mel features, whose network is the encoder.

EEGDM (arXiv 2508.14086) pretrains a state space model as a diffusion model, with a cosine schedule of 50 steps, and then reads
its latents at noiseless input.  Here the encoder predicts the clean features x0 from x_k, and the vector that tells it the step k
is added behind the subsampling.  There a norm with a bias ends the subsampling, so the vector of step 0 is folded into that bias:
the encoder that is kept has nothing of diffusion.

    x_k = sqrt(a_k) x0 + sqrt(1 - a_k) e,  e ~ N(0, 1),  k uniform for every utterance            a_k: `schedule`
    loss = |x0 - decode(encode(x_k, k))|^2                                   mean over valid features

EEGDM predicts v = sqrt(a) e - sqrt(1 - a) x0 instead (eq. 5).  |v - v'|^2 = |x0 - x0'|^2 / (1 - a), which is 572 times as much at
k = 0: the encoder, with one frame of d_model for 4 times 80 features, would have to carry the noise.
Shapes: b batch, t feature frames, u encoder frames (t / n), n model.subsampling, m mels, d d_model.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import Config
from samba_asr.models.acoustic import AcousticModel
from samba_asr.streaming import mask, valid_mask
from samba_asr.training.objectives.base import BatchFields, Outcome, objectives
from samba_asr.training.objectives.pretraining import Pretraining, Sums
from samba_asr.training.score import Score

STEPS = 50
WAVES = 64  # sines and cosines that describe a step
MEASURED = (0, 10, 24, 40)  # steps of validation, so that runs can be compared


def schedule() -> Tensor:
    """Return a (STEPS,), float64: the share of the signal's power in x_k, by a cosine (arXiv 2102.09672, eq. 17)."""

    def f(s: float) -> float:
        return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - f((k + 1) / STEPS) / f(k / STEPS), 0.999) for k in range(STEPS)]
    return (1 - torch.tensor(betas, dtype=torch.float64)).cumprod(0)


class StepEmbedding(nn.Module):
    """Steps (b,) -> (b, d): a small network on sines and cosines of the step.  It starts as zero."""

    def __init__(self, d: int):
        super().__init__()
        self.hidden, self.out = nn.Linear(WAVES, d), nn.Linear(d, d)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, steps: Tensor) -> Tensor:
        return self.out(F.silu(self.hidden(waves(steps).to(self.hidden.weight.dtype))))


def waves(steps: Tensor) -> Tensor:
    """Return (b, WAVES), float64: sines, then cosines, of frequencies from 1 to nearly 1 / 10,000."""
    half = WAVES // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=steps.device, dtype=torch.float64))
    angles = steps[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


@objectives.register("diffusion")
class Diffusion(Pretraining):
    """Mean squared error of denoised features, times the encoder frames of the utterance."""

    share: Tensor  # (STEPS,) of the signal's power

    def __init__(self, net: AcousticModel, config: Config):
        super().__init__(net, config)
        model = config.model
        self.embedding = StepEmbedding(model.d_model)
        self.head = nn.Linear(model.d_model, model.subsampling * model.features.mels)
        self.register_buffer("share", schedule(), persistent=False)
        last = self.net.subsampling.layers[-1].norm
        assert isinstance(last, nn.LayerNorm)  # each front end ends with a projection and its norm
        self._bias = next(name for name, p in self.named_parameters() if p is last.bias)

    def noisy(self, features: Tensor, lengths: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
        """Return x_k (b, t, m) of features x0 for steps k (b,); zeros in the padding."""
        share = self.share.to(features.dtype)[steps][:, None, None]
        return mask(share.sqrt() * features + (1 - share).sqrt() * noise, lengths)

    def denoised(self, x: Tensor, lengths: Tensor, steps: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """Return the prediction of x0 (b, u, n m), and the lengths (b,) in encoder frames."""
        frames, lengths = self.net.subsampling(x, lengths)
        frames = frames + self.embedding(steps)[:, None].to(frames.dtype)
        frames, lengths = self.net.encoder(frames, lengths, block)
        return self.head(frames), lengths

    def _errors(
        self, features: Tensor, lengths: Tensor, steps: Tensor, block: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return (b,) squared errors, means over m and sums over encoder frames, and lengths (b,) in encoder frames."""
        noise = torch.randn(features.shape, generator=generator).to(features)
        guess, frames = self.denoised(self.noisy(features, lengths, steps, noise), lengths, steps, block)
        truth = self.stacked(features)
        error = (guess[:, : truth.shape[1]].float() - truth).square().mean(-1)  # (b, u)
        return error.masked_fill(~valid_mask(frames, error.shape[1]), 0).sum(1), frames

    def compute(self, batch: BatchFields, *, block: int, augment: bool, generator: torch.Generator | None) -> Outcome:
        features, lengths = self.features(batch, augment, generator)
        steps = torch.randint(STEPS, (len(lengths),), generator=generator).to(lengths.device)
        errors, frames = self._errors(features, lengths, steps, block, generator)
        units = self.units(batch)
        return Outcome(errors / frames.clamp(min=1) * units, {}, units)

    def measure(self, batch: BatchFields, *, block: int, generator: torch.Generator) -> Sums:
        features, lengths = self.features(batch, False, None)
        sums: Sums = {}
        for k in MEASURED:
            errors, frames = self._errors(features, lengths, torch.full_like(lengths, k), block, generator)
            sums[f"squared_{k}"] = float(errors.double().sum()), int(frames.sum())
        totals = zip(*sums.values(), strict=True)
        return {"squared": (sum(next(totals)), sum(next(totals))), **sums}

    def score(self, means: dict[str, float]) -> Score:
        return Score("squared error", means["squared"], "variances")

    def describe(self, means: dict[str, float]) -> str:
        steps = ", ".join(f"step {k}: {means[f'squared_{k}']:.4f}" for k in MEASURED)
        return f"mean squared error {means['squared']:.4f} of denoised features ({steps})"

    @torch.no_grad()
    def net_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of the net with the vector of step 0 folded into the norm of its subsampling."""
        layers = {name: state[f"embedding.{name}"] for name in self.embedding.state_dict()}
        zero = waves(torch.zeros(1)).to(layers["hidden.weight"])
        hidden = F.silu(F.linear(zero, layers["hidden.weight"], layers["hidden.bias"]))
        vector = F.linear(hidden, layers["out.weight"], layers["out.bias"])[0]
        return super().net_weights({**state, self._bias: state[self._bias] + vector})
