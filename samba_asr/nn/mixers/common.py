"""What the mixers share: the initial step sizes, and the gated norm of Mamba-2."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def no_weight_decay(parameter: Tensor) -> nn.Parameter:
    """A parameter that the optimiser must not shrink, marked as state-spaces/mamba marks it."""
    parameter = nn.Parameter(parameter)
    parameter._no_weight_decay = True
    return parameter


def initial_dt_bias(n: int, dt_min: float, dt_max: float) -> Tensor:
    """(n,) biases whose softplus is log-uniform in [dt_min, dt_max]: 1 / dt is how many frames a channel remembers."""
    dt = torch.exp(torch.rand(n) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min))
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


class GatedRMSNorm(nn.Module):
    """RMSNorm(y * silu(z)): the norm in front of Mamba-2's output projection (arXiv 2405.21060, section 7.1)."""

    def __init__(self, d: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.eps = eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        return F.rms_norm(y * F.silu(z), self.weight.shape, self.weight.to(y.dtype), self.eps)
