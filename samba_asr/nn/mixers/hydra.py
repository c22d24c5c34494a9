"""Hydra mixer: a quasiseparable matrix, as two SSD scans with shared projections (Hwang et al., arXiv 2407.09941).

    y = shift(SSD(x)) + flip(shift(SSD(flip(x)))) + D(x) x                                     (eq. 10 and figure 2)

The forward scan runs without limit, the backward scan inside each block (samba_asr.nn.blocks), and only over valid steps.
With one block it is Hydra as published.
Shapes: b batch, t time, d d_model, h heads, p channels of a head, n state.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import HydraConfig
from samba_asr.errors import UserError
from samba_asr.nn.blocks import BlockModule
from samba_asr.nn.conv import BlockConv1d
from samba_asr.nn.linear import Linear
from samba_asr.nn.mixers.common import initial_a_log, initial_dt_bias, no_weight_decay
from samba_asr.ops.blocks import Blocks
from samba_asr.ops.elapsed import decay, wait
from samba_asr.ops.quasiseparable import join_and_gate
from samba_asr.ops.ssd import ssd_both_ways
from samba_asr.streaming import Step, tail

EPS = 1e-5
"""Of the norm."""


class HydraState(NamedTuple):
    """State of the Hydra mixer."""

    conv: Tensor  # (b, d_conv - 1, d_inner + 4 n) last inputs of the short convolution
    ssm: Tensor  # (b, h, p, n) float32, of the forward scan
    last: Tensor  # (b, 1, d_inner) last output of the forward scan, which the shift moves to the next step


class HydraInputs(NamedTuple):
    """Inputs of the scans of a chunk, and its gate.  Axis w: forward, backward."""

    u: Tensor  # (b, t, d_inner)
    dt: Tensor  # (b, t, w, h) step sizes, positive
    B: Tensor  # (b, t, w, 1, n)
    C: Tensor  # (b, t, w, 1, n)
    skip: Tensor  # (b, t, h) weight of a step's own u
    z: Tensor  # (b, t, d_inner)
    conv: Tensor  # the state of the short convolution after the chunk


class Hydra(BlockModule):
    """Hydra mixer; its backward scan stays inside blocks."""

    exportable = True

    def __init__(self, d_model: int, config: HydraConfig):
        super().__init__()
        d_inner, n = config.expand * d_model, config.d_state
        if d_inner % config.headdim:
            raise UserError(f"expand * d_model = {d_inner} must be a multiple of headdim {config.headdim}")
        heads = d_inner // config.headdim
        self.d_inner, self.heads, self.d_state = d_inner, heads, n
        self.in_proj = Linear(d_model, 2 * d_inner + 4 * n + 2 * heads, bias=False)  # z, x, 2 (B, C), 2 dt
        self.conv1d = BlockConv1d(d_inner + 4 * n, config.d_conv - 1, config.d_conv - 1, silu=True)
        self.dt_bias = no_weight_decay(initial_dt_bias(heads, config.dt_min, config.dt_max))
        self.A_log = no_weight_decay(initial_a_log(heads, config.a_max))
        self.D = no_weight_decay(torch.ones(heads))
        self.fc_D = Linear(d_inner, heads, bias=False)
        self.norm = nn.RMSNorm(d_inner, eps=EPS)  # its weight; `join_and_gate` normalizes
        self.out_proj = Linear(d_inner, d_model, bias=False)

    def init_state(self, batch, *, device=None, dtype=None):
        accumulator = torch.float64 if dtype == torch.float64 else torch.float32
        shape = (batch, self.heads, self.d_inner // self.heads, self.d_state)
        return HydraState(
            self.conv1d.init_state(batch, device=device, dtype=dtype),
            torch.zeros(shape, device=device, dtype=accumulator),
            torch.zeros(batch, 1, self.d_inner, device=device, dtype=dtype),
        )

    def inputs(self, x: Tensor, lengths: Tensor, conv: Tensor, blocks: Blocks) -> HydraInputs:
        """Project x (b, t, d), and run the short convolution from its state `conv`."""
        width = self.d_inner + 4 * self.d_state
        z, u, dt = self.in_proj(blocks.mask(x)).split([self.d_inner, width, 2 * self.heads], dim=-1)
        u, _, conv = self.conv1d.step(u, lengths, conv, blocks)
        u, maps = u.split([self.d_inner, 4 * self.d_state], dim=-1)
        B, C = maps.unflatten(-1, (2, 2, 1, -1)).unbind(3)  # (b, t, 2, 1, n); forward, backward
        dt = F.softplus(dt.unflatten(-1, (2, -1)).to(self.dt_bias.dtype) + self.dt_bias)  # (b, t, 2, h)
        return HydraInputs(u, dt, B, C, self.fc_D(u) + self.D.to(u.dtype), z, conv)

    def step(self, x: Tensor, lengths: Tensor, state: HydraState, blocks: Blocks) -> Step:
        u, dt, B, C, skip, z, conv = self.inputs(x, lengths, state.conv, blocks)
        heads = u.unflatten(-1, (self.heads, -1))  # (b, t, h, p)
        scan = self._scan if blocks.before is None else self._scan_with_time
        forward, backward, ssm = scan(heads, dt, B, C, state.ssm, blocks)
        forward, backward = forward.flatten(-2), backward.flatten(-2)
        reads = self._after_gaps(forward, backward, state.last, blocks)
        y = join_and_gate(*reads, u, skip, z, self.norm.weight, blocks, eps=EPS)
        last = state.last
        if not blocks.whole:
            last = tail(torch.cat([last.to(forward.dtype), forward], dim=1), blocks.kept, 1).to(last.dtype)
        return Step(self.out_proj(y), lengths, HydraState(conv, ssm, last))

    def _scan(self, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, state: Tensor, blocks: Blocks):
        return ssd_both_ways(x, dt, -self.A_log.exp(), B, C, blocks, initial_state=state)

    def _scan_with_time(self, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, state: Tensor, blocks: Blocks):
        assert blocks.before is not None
        assert blocks.after is not None
        idle, A, ragged = F.softplus(self.dt_bias), -self.A_log.exp(), blocks.ragged
        forward = wait(x, dt[:, :, 0], idle, blocks.before, ragged)
        backward = wait(x, dt[:, :, 1], idle, blocks.after, ragged)
        x, dt = (torch.stack(pair, 2) for pair in zip(forward, backward, strict=True))  # (b, t, 2, h, p), (b, t, 2, h)
        return ssd_both_ways(x, dt, torch.stack([A, A]), B, C, blocks, initial_state=state)

    def _after_gaps(
        self, forward: Tensor, backward: Tensor, last: Tensor, blocks: Blocks
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the shift reads from the steps before and after, decayed by the gap in between: (b, t, d) each."""
        if blocks.before is None:
            return forward, backward, last
        left = decay(-self.A_log.exp(), F.softplus(self.dt_bias), blocks.before)
        if left is None or not left.shape[1]:
            return forward, backward, last
        left = left.repeat_interleave(self.d_inner // self.heads, 2).to(forward.dtype)  # (b, t, d)
        return forward * F.pad(left[:, 1:], (0, 0, 0, 1)), backward * left, last.to(forward.dtype) * left[:, :1]
