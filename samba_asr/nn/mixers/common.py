"""What the mixers share: the initial step sizes, the gated norm of Mamba-2, and their short convolutions both ways."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.errors import UserError
from samba_asr.ops.blocks import Blocks
from samba_asr.ops.conv1d import block_conv1d


def no_weight_decay(parameter: Tensor) -> nn.Parameter:
    """A parameter that the optimiser must not shrink, marked as state-spaces/mamba marks it."""
    parameter = nn.Parameter(parameter)
    parameter._no_weight_decay = True
    return parameter


def initial_dt_bias(n: int, dt_min: float, dt_max: float) -> Tensor:
    """(n,) biases whose softplus is log-uniform in [dt_min, dt_max]: 1 / dt is how many frames a channel remembers."""
    dt = torch.exp(torch.rand(n) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min))
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


def initial_a_log(heads: int, a_max: float) -> Tensor:
    """(heads,) log(-A), A uniform between -1 and -a_max: a head remembers 1 / (dt * -A) frames.  UserError for a_max below 1.

    With dt log-uniform in 0.001 to 1, A to -16 lets 28 % of the heads begin with a memory of less than a frame; A = -1 none.
    """
    if not 1 <= a_max < math.inf:
        raise UserError(f"model.mixer.a_max={a_max}: it must be 1 or more")
    return torch.empty(heads).uniform_(1, a_max).log()


class GatedRMSNorm(nn.Module):
    """RMSNorm(y * silu(z)): the norm in front of Mamba-2's output projection (arXiv 2405.21060, section 7.1)."""

    def __init__(self, d: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.eps = eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        return F.rms_norm(y * F.silu(z), self.weight.shape, self.weight.to(y.dtype), self.eps)


def conv_both_ways(
    u: Tensor, weights: tuple[Tensor, Tensor], biases: tuple[Tensor, Tensor], state: Tensor, blocks: Blocks
) -> tuple[Tensor, Tensor]:
    """Short convolutions and SiLU of u (b, t, 2, d), forth in time and back inside blocks, as one of 2 d channels: a channel that
    reads forth has zeros for the steps ahead, one that reads back zeros for the past.

    weights (d, k), biases (d,): forth, back.  Returns (b, t, 2, d), and the state of the way forth, (b, k - 1, d) as `state`.
    """
    forth, back = weights
    d, k = forth.shape
    taps = torch.cat([F.pad(forth, (0, k - 1)), F.pad(back.flip(1), (k - 1, 0))])  # (2 d, 2 k - 1)
    before = torch.cat([state, torch.zeros_like(state)], -1)
    y, after = block_conv1d(u.flatten(-2), taps, torch.cat(biases), initial_state=before, blocks=blocks, silu=True)
    return y.unflatten(-1, (2, d)), after[..., :d]
