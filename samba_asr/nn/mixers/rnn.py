"""ParaRNN mixers: gated recurrent units with diagonal recurrent weights (Danieli et al., arXiv 2510.21450).

Nonlinear recurrences in the block of Mamba: short convolution, SiLU, cell, gate.  The inputs of a cell's three gates are a
block-diagonal linear map of the channels (the paper's heads), so the recurrence is elementwise.

Initial values are the paper's, except for the bias of the gate that holds the state.  There it is a spread from 0 to -1, here the
time constants of the other mixers: with no input a channel keeps exp(-dt) of its state, dt log-uniform from dt_min to dt_max.
The state is the smallest of all mixers: 1 (GRU) or 2 (LSTM) numbers a channel.
Shapes: b batch, t time, d d_inner, k blocks of the input matrix, p channels of a block.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import ParaGruConfig, ParaLstmConfig
from samba_asr.errors import UserError
from samba_asr.nn.blocks import CausalMixer
from samba_asr.nn.mixers.common import initial_dt_bias, no_weight_decay, short_conv
from samba_asr.ops.elapsed import Elapsed
from samba_asr.ops.rnn import para_gru, para_lstm
from samba_asr.streaming import Step, mask


class ParaRnnState(NamedTuple):
    """State of a ParaRNN mixer."""

    conv: Tensor  # (b, d_conv - 1, d) last inputs of the short convolution
    rnn: Tensor  # float32, h (b, d) of the GRU, c and h (b, 2, d) of the LSTM


class _ParaRnn(CausalMixer):
    """Common base of both mixers, forward in time."""

    state_shape: ClassVar[tuple[int, ...]]  # of a channel

    def __init__(self, d_model: int, config: ParaGruConfig | ParaLstmConfig, bias: Tensor):
        """bias (d,): initial bias of the first gate."""
        super().__init__()
        d, p = config.expand * d_model, config.headdim
        if d % p:
            raise UserError(f"expand * d_model = {d} must be a multiple of headdim {p}")
        self.d_inner = d
        self.in_proj = nn.Linear(d_model, 2 * d, bias=False)  # u, z
        self.conv1d = nn.Conv1d(d, d, config.d_conv, groups=d)
        self.B = nn.Parameter(torch.empty(d // p, 3, p, p).uniform_(-math.sqrt(3 / p), math.sqrt(3 / p)))  # Xavier
        self.bias = no_weight_decay(torch.stack([bias, torch.zeros(d), torch.zeros(d)]))
        self.A = no_weight_decay(_recurrent(3, d))
        self.D = no_weight_decay(torch.ones(d))
        self.out_proj = nn.Linear(d, d_model, bias=False)

    def init_state(self, batch, *, device=None, dtype=None):
        conv = torch.zeros(batch, self.conv1d.kernel_size[0] - 1, self.d_inner, device=device, dtype=dtype)
        accumulator = torch.float64 if dtype == torch.float64 else torch.float32
        return ParaRnnState(conv, torch.zeros(batch, *self.state_shape, self.d_inner, device=device, dtype=accumulator))

    def step(
        self,
        x: Tensor,
        lengths: Tensor | None,
        state: ParaRnnState,
        reset: Tensor | None = None,
        elapsed: Elapsed | None = None,
    ) -> Step:
        """Process x (b, t, d_model).  See `CausalMixer.step`.  The cell holds its state while time passes."""
        u, z = self.in_proj(mask(x, lengths)).chunk(2, dim=-1)
        u, conv = short_conv(self.conv1d, u, state.conv, lengths, reset, elapsed)
        u = mask(u, lengths)
        y, rnn = self.cell(self.gates(u), initial_state=state.rnn, lengths=lengths, reset=reset)
        y = (y.to(u.dtype) + self.D.to(u.dtype) * u) * F.silu(z)
        return Step(self.out_proj(y), lengths, ParaRnnState(conv, rnn))  # pyright: ignore[reportArgumentType]  (None where all steps count)

    def gates(self, u: Tensor) -> Tensor:
        """Return the inputs of the cell's three gates, (b, t, 3, d), with time first in memory, as the cell reads them."""
        k, _, p, _ = self.B.shape
        v = torch.einsum("tbkp,kgqp->tbgkq", u.transpose(0, 1).unflatten(-1, (k, p)), self.B)
        return (v.flatten(-2) + self.bias.to(v.dtype)).transpose(0, 1)

    def cell(self, x: Tensor, **named: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run the recurrence on the gates' inputs x (b, t, 3, d)."""
        raise NotImplementedError


class ParaGru(_ParaRnn):
    """Gated recurrent unit."""

    state_shape = ()

    def __init__(self, d_model: int, config: ParaGruConfig):
        dt_bias = initial_dt_bias(config.expand * d_model, config.dt_min, config.dt_max)
        super().__init__(d_model, config, dt_bias)  # sigmoid of it is 1 - exp(-dt), what the update gate lets in

    def cell(self, x: Tensor, **named: Tensor | None) -> tuple[Tensor, Tensor]:
        return para_gru(x, self.A, **named)  # pyright: ignore[reportArgumentType]


class ParaLstm(_ParaRnn):
    """Long short-term memory with coupled input and forget gates."""

    state_shape = (2,)

    def __init__(self, d_model: int, config: ParaLstmConfig):
        d = config.expand * d_model
        super().__init__(d_model, config, -initial_dt_bias(d, config.dt_min, config.dt_max))  # exp(-dt), what f keeps
        self.C = no_weight_decay(_recurrent(2, d))

    def cell(self, x: Tensor, **named: Tensor | None) -> tuple[Tensor, Tensor]:
        return para_lstm(x, self.A, self.C, **named)  # pyright: ignore[reportArgumentType]


def _recurrent(rows: int, d: int) -> Tensor:
    """Draw recurrent weights (rows, d): small, so that the Jacobian of a step begins at 1 or less."""
    return torch.randn(rows, d) * 2 / math.sqrt(5 * d)
