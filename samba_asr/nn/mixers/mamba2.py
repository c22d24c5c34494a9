"""Mamba-2 mixer: short convolution, SSD scan, gate (Dao and Gu, arXiv 2405.21060).

Parameter names and initialization are those of `Mamba2` in state-spaces/mamba, so its weights can be loaded.
Shapes: b batch, t time, d d_model, h heads, p channels of a head, n state.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import Mamba2Config
from samba_asr.errors import UserError
from samba_asr.nn.blocks import CausalMixer
from samba_asr.nn.mixers.common import (
    GatedRMSNorm,
    conv_both_ways,
    initial_a_log,
    initial_dt_bias,
    no_weight_decay,
    short_conv,
)
from samba_asr.ops.blocks import Blocks
from samba_asr.ops.elapsed import Elapsed, wait
from samba_asr.ops.ssd import ssd, ssd_both_ways
from samba_asr.streaming import Step, mask


class Mamba2State(NamedTuple):
    """State of the Mamba-2 mixer."""

    conv: Tensor  # (b, d_conv - 1, d_inner + 2 n) last inputs of the short convolution
    ssm: Tensor  # (b, h, p, n) float32


class Mamba2Inputs(NamedTuple):
    """Inputs of the scan of a chunk, and its gate."""

    u: Tensor  # (b, t, h, p)
    dt: Tensor  # (b, t, h) step sizes, positive
    B: Tensor  # (b, t, n)
    C: Tensor  # (b, t, n)
    z: Tensor  # (b, t, d_inner)
    conv: Tensor  # the state of the short convolution after the chunk


class Mamba2(CausalMixer):
    """Mamba-2 mixer, forward in time."""

    exportable = True

    def __init__(self, d_model: int, config: Mamba2Config):
        super().__init__()
        d_inner, n = config.expand * d_model, config.d_state
        if d_inner % config.headdim:
            raise UserError(f"expand * d_model = {d_inner} must be a multiple of headdim {config.headdim}")
        heads = d_inner // config.headdim
        self.d_inner, self.heads, self.d_state = d_inner, heads, n
        self.in_proj = nn.Linear(d_model, 2 * d_inner + 2 * n + heads, bias=False)  # z, x, B, C, dt
        self.conv1d = nn.Conv1d(d_inner + 2 * n, d_inner + 2 * n, config.d_conv, groups=d_inner + 2 * n)
        self.dt_bias = no_weight_decay(initial_dt_bias(heads, config.dt_min, config.dt_max))
        self.A_log = no_weight_decay(initial_a_log(heads, config.a_max))
        self.D = no_weight_decay(torch.ones(heads))
        self.norm = GatedRMSNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def init_state(self, batch, *, device=None, dtype=None):
        conv = torch.zeros(batch, self.conv1d.kernel_size[0] - 1, self.conv1d.in_channels, device=device, dtype=dtype)
        accumulator = torch.float64 if dtype == torch.float64 else torch.float32
        shape = (batch, self.heads, self.d_inner // self.heads, self.d_state)
        return Mamba2State(conv, torch.zeros(shape, device=device, dtype=accumulator))

    def inputs(
        self, x: Tensor, lengths: Tensor | None, conv: Tensor, reset: Tensor | None, elapsed: Elapsed | None
    ) -> Mamba2Inputs:
        """Project x (b, t, d_model), and run the short convolution from its state `conv`.  Others as for `CausalMixer.step`."""
        z, u, dt = self.in_proj(mask(x, lengths)).split([self.d_inner, self.conv1d.in_channels, self.heads], dim=-1)
        u, conv = short_conv(self.conv1d, u, conv, lengths, reset, elapsed)
        u, B, C = u.split([self.d_inner, self.d_state, self.d_state], dim=-1)
        dt = F.softplus(dt.to(self.dt_bias.dtype) + self.dt_bias)
        return Mamba2Inputs(u.unflatten(-1, (self.heads, -1)), dt, B, C, z, conv)

    def step(
        self,
        x: Tensor,
        lengths: Tensor | None,
        state: Mamba2State,
        reset: Tensor | None = None,
        elapsed: Elapsed | None = None,
    ) -> Step:
        """Process x (b, t, d_model).  See `CausalMixer.step`."""
        u, dt, B, C, z, conv = self.inputs(x, lengths, state.conv, reset, elapsed)
        inputs, dt = wait(u, dt, F.softplus(self.dt_bias), elapsed, lengths) if elapsed else (u, dt)
        y, ssm = ssd(
            inputs,
            dt,
            -self.A_log.exp(),
            B.unsqueeze(2),
            C.unsqueeze(2),
            initial_state=state.ssm,
            lengths=lengths,
            reset=reset,
        )
        y = (y + self.D.to(u.dtype)[:, None] * u).flatten(-2)  # (b, t, d_inner)
        after = Mamba2State(conv, ssm)
        return Step(self.out_proj(self.norm(y, z)), lengths, after)  # pyright: ignore[reportArgumentType]  (None where all steps count)

    def both_ways(self, back: Mamba2, x: Tensor, state: Mamba2State, blocks: Blocks) -> tuple[Tensor, Mamba2State]:
        """See `CausalMixer.both_ways`.  One launch for the convolutions, one for the scans, one product per projection."""
        ways = (self, back)
        width = self.conv1d.in_channels
        parts = list(zip(*(way.in_proj.weight.split([self.d_inner, width, self.heads]) for way in ways), strict=True))
        joined = F.linear(blocks.mask(x), torch.cat([weight for part in parts for weight in part]))
        z, u, dt = (
            v.unflatten(-1, (2, -1)) for v in joined.split([2 * self.d_inner, 2 * width, 2 * self.heads], dim=-1)
        )  # (b, t, 2, .)
        u, conv = conv_both_ways(
            u,
            (self.conv1d.weight[:, 0], back.conv1d.weight[:, 0]),
            cast("tuple[Tensor, Tensor]", (self.conv1d.bias, back.conv1d.bias)),
            state.conv,
            blocks,
        )
        u, B, C = u.split([self.d_inner, self.d_state, self.d_state], dim=-1)
        u = u.unflatten(-1, (self.heads, -1))  # (b, t, 2, h, p)
        forward, backward, ssm = ssd_both_ways(
            u,
            F.softplus(dt.to(self.dt_bias.dtype) + torch.stack([way.dt_bias for way in ways])),
            -torch.stack([way.A_log for way in ways]).exp(),
            B.unsqueeze(3),
            C.unsqueeze(3),
            blocks,
            initial_state=state.ssm,
        )
        y = torch.stack([forward, backward], 2) + torch.stack([way.D for way in ways]).to(u.dtype)[..., None] * u
        y = torch.stack(
            [way.norm(y[:, :, i].flatten(-2), z[:, :, i]) for i, way in enumerate(ways)], 2
        )  # (b, t, 2, d_inner)
        y = F.linear(y.flatten(-2), torch.cat([way.out_proj.weight for way in ways], 1))
        return y, Mamba2State(conv.to(state.conv.dtype), ssm)
