"""Common parts of the mixers: initial step sizes, the gated norm of Mamba-2, and short convolutions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.errors import UserError
from samba_asr.ops.blocks import Blocks
from samba_asr.ops.conv1d import block_conv1d, causal_conv1d
from samba_asr.ops.elapsed import Elapsed


def short_conv(
    conv: nn.Conv1d, u: Tensor, state: Tensor, lengths: Tensor | None, reset: Tensor | None, elapsed: Elapsed | None
) -> tuple[Tensor, Tensor]:
    """Convolve u (b, t, d), and apply SiLU; the convolution starts again at `reset` and where time has passed.

    conv: depthwise, of k taps.  state: (b, k - 1, d).  Arguments as for `CausalMixer.step`.
    Returns y (b, t, d) and the new state, of the dtype of `state`.
    """
    if elapsed is not None and elapsed.breaks is not None:
        reset = elapsed.breaks if reset is None else reset | elapsed.breaks
    y, after = causal_conv1d(
        u, conv.weight[:, 0], conv.bias, initial_state=state, lengths=lengths, reset=reset, silu=True
    )
    return y, after.to(state.dtype)


def no_weight_decay(parameter: Tensor) -> nn.Parameter:
    """Return a parameter without weight decay, marked as state-spaces/mamba marks it."""
    marked = nn.Parameter(parameter)
    setattr(marked, "_no_weight_decay", True)  # noqa: B010  (no attribute that type checkers know)
    return marked


def initial_dt_bias(n: int, dt_min: float, dt_max: float) -> Tensor:
    """Return (n,) biases whose softplus is log-uniform in [dt_min, dt_max].  1 / dt is the memory of a channel in frames."""
    dt = torch.exp(torch.rand(n) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min))
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


def initial_a_log(heads: int, a_max: float) -> Tensor:
    """Return (heads,) log(-A), with A uniform in [-a_max, -1].  UserError for a_max below 1.

    The memory of a head is 1 / (dt * -A) frames.  With dt log-uniform in 0.001 to 1 and a_max 16, 28 % of the heads start
    with less than a frame; with a_max 1, none does.
    """
    if not 1 <= a_max < math.inf:
        raise UserError(f"model.mixer.a_max={a_max}: it must be 1 or more")
    return torch.empty(heads).uniform_(1, a_max).log()


class GatedRMSNorm(nn.Module):
    """RMSNorm(y * silu(z)), the norm before Mamba-2's output projection (arXiv 2405.21060, section 7.1)."""

    def __init__(self, d: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.eps = eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        return F.rms_norm(y * F.silu(z), self.weight.shape, self.weight.to(y.dtype), self.eps)


def conv_both_ways(
    u: Tensor, weights: tuple[Tensor, Tensor], biases: tuple[Tensor, Tensor], state: Tensor, blocks: Blocks
) -> tuple[Tensor, Tensor]:
    """Convolve u (b, t, 2, d), forward in time and backward inside blocks, and apply SiLU.

    One convolution of 2 d channels does both: forward taps have zeros for the steps ahead, backward taps for the past.
    weights (d, k), biases (d,): forward, backward.  state: (b, k - 1, d) of the forward direction.
    Returns y (b, t, 2, d) and the new forward state.
    """
    forward, backward = weights
    d, k = forward.shape
    taps = torch.cat([F.pad(forward, (0, k - 1)), F.pad(backward.flip(1), (k - 1, 0))])  # (2 d, 2 k - 1)
    before = torch.cat([state, torch.zeros_like(state)], -1)
    y, after = block_conv1d(u.flatten(-2), taps, torch.cat(biases), initial_state=before, blocks=blocks, silu=True)
    return y.unflatten(-1, (2, d)), after[..., :d]
