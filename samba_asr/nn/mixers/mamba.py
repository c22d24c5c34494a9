"""Mamba mixer: short convolution, selective scan (S6), gate (Gu and Dao, arXiv 2312.00752, figure 3).

Parameter names and initialization are those of `Mamba` in state-spaces/mamba, so its weights can be loaded.  With `init` the
states can be complex, n / 2 pairs that begin as S4D's (arXiv 2206.11893); x_proj's B and C are then real, then imaginary parts.
Shapes: b batch, t time, d d_model, n state.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import MambaConfig
from samba_asr.nn.blocks import CausalMixer
from samba_asr.nn.mixers.common import conv_both_ways, initial_dt_bias, no_weight_decay, short_conv
from samba_asr.ops.blocks import Blocks
from samba_asr.ops.elapsed import Elapsed, wait
from samba_asr.ops.selective_scan import selective_scan, selective_scan_both_ways
from samba_asr.ops.spectrum import LARGEST_DT, diagonal
from samba_asr.streaming import Step, mask


class MambaState(NamedTuple):
    """State of the Mamba mixer."""

    conv: Tensor  # (b, d_conv - 1, d_inner) last inputs of the short convolution
    ssm: Tensor  # (b, d_inner, n) float32; of complex states real parts, then imaginary parts


class Mamba(CausalMixer):
    """Mamba mixer, forward in time."""

    A_imag: nn.Parameter | None

    def __init__(self, d_model: int, config: MambaConfig):
        super().__init__()
        d_inner, n = config.expand * d_model, config.d_state
        dt_rank = -(-d_model // 16)
        self.d_inner, self.d_state, self.dt_rank = d_inner, n, dt_rank
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)  # x, z
        self.conv1d = nn.Conv1d(d_inner, d_inner, config.d_conv, groups=d_inner)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * n, bias=False)  # dt, B, C
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        A, _ = diagonal(config.init or "real", n)
        largest = min(config.dt_max, LARGEST_DT) if A.is_complex() else config.dt_max
        self.dt_proj.bias = no_weight_decay(initial_dt_bias(d_inner, min(config.dt_min, largest), largest))
        self.A_log = no_weight_decay((-A.real).float().log().repeat(d_inner, 1))
        self.A_imag = no_weight_decay(A.imag.float().repeat(d_inner, 1)) if A.is_complex() else None
        self.D = no_weight_decay(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def init_state(self, batch, *, device=None, dtype=None):
        conv = torch.zeros(batch, self.conv1d.kernel_size[0] - 1, self.d_inner, device=device, dtype=dtype)
        accumulator = torch.float64 if dtype == torch.float64 else torch.float32
        return MambaState(conv, torch.zeros(batch, self.d_inner, self.d_state, device=device, dtype=accumulator))

    def step(
        self,
        x: Tensor,
        lengths: Tensor | None,
        state: MambaState,
        reset: Tensor | None = None,
        elapsed: Elapsed | None = None,
    ) -> Step:
        """Process x (b, t, d_model).  See `CausalMixer.step`."""
        u, z = self.in_proj(mask(x, lengths)).chunk(2, dim=-1)
        u, conv = short_conv(self.conv1d, u, state.conv, lengths, reset, elapsed)
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt, A = F.linear(dt, self.dt_proj.weight), -self.A_log.exp()
        if elapsed:
            bias = self.dt_proj.bias
            dt = F.softplus(mask(dt, lengths).to(bias.dtype) + bias)
            inputs, dt = wait(u, dt, F.softplus(bias), elapsed, lengths)
            y, ssm = selective_scan(
                inputs, dt, A, B, C, A_imag=self.A_imag, initial_state=state.ssm, lengths=lengths, reset=reset
            )
            y = (y + self.D.to(y.dtype) * mask(u, lengths)) * F.silu(z)  # they read the true input
        else:
            y, ssm = selective_scan(
                u,
                dt,
                A,
                B,
                C,
                A_imag=self.A_imag,
                D=self.D,
                z=z,
                dt_bias=self.dt_proj.bias,
                initial_state=state.ssm,
                lengths=lengths,
                reset=reset,
            )
        after = MambaState(conv, ssm)
        return Step(self.out_proj(y), lengths, after)  # pyright: ignore[reportArgumentType]  (None where all steps count)

    def both_ways(self, back: Mamba, x: Tensor, state: MambaState, blocks: Blocks) -> tuple[Tensor, MambaState]:
        """See `CausalMixer.both_ways`.  One launch for the convolutions, one for the scans, one product per projection."""
        if self.A_imag is not None:  # the kernels have no complex states
            return super().both_ways(back, x, state, blocks)
        ways = (self, back)
        halves = [half for i in (0, 1) for half in (way.in_proj.weight.chunk(2)[i] for way in ways)]  # x, x, z, z
        u, z = F.linear(blocks.mask(x), torch.cat(halves)).unflatten(-1, (2, 2, -1)).unbind(2)  # (b, t, 2, d)
        u, conv = conv_both_ways(
            u,
            (self.conv1d.weight[:, 0], back.conv1d.weight[:, 0]),
            cast("tuple[Tensor, Tensor]", (self.conv1d.bias, back.conv1d.bias)),
            state.conv,
            blocks,
        )
        maps = torch.einsum("btwd,wrd->btwr", u, torch.stack([way.x_proj.weight for way in ways]))
        dt, B, C = maps.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y, ssm = selective_scan_both_ways(
            u,
            torch.einsum("btwr,wdr->btwd", dt, torch.stack([way.dt_proj.weight for way in ways])),
            -torch.stack([way.A_log for way in ways]).exp(),
            B,
            C,
            blocks,
            D=torch.stack([way.D for way in ways]),
            z=z,
            dt_bias=torch.stack([way.dt_proj.bias for way in ways]),
            initial_state=state.ssm,
        )
        y = F.linear(y.flatten(-2), torch.cat([way.out_proj.weight for way in ways], 1))
        return y, MambaState(conv.to(state.conv.dtype), ssm)
