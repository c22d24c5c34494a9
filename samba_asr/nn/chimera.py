"""Chimera's two-dimensional state space model over time and mel bands, as a layer of the front end (arXiv 2406.04320).

The paper forecasts several variates; here the variates are the bands that the convolutions of the front end leave, so the
spectrum of a frame is read together with its past.  As in the paper:

- Two heads, a trend and a seasonal one: the former begins with small steps along time (a long memory), the latter with large.
- Two directions along the bands, up and down, each with its own weights.  Along time there is one: the layer is causal, has no
  look-ahead and adds no latency.
- Steps, B and C depend on the input of the cell.

The recurrence is that of `samba_asr.ops.scan2d`, which is stable whatever training does.  The layer adds to its input, and
begins as the identity.
Shapes: b batch, t time, v bands, c channels of a band, 2 directions, 2 heads of p = c / 2 channels each, n state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.errors import UserError
from samba_asr.nn.mixers.common import initial_dt_bias, no_weight_decay
from samba_asr.ops.scan2d import scan2d
from samba_asr.streaming import Step, StreamingModule, mask

HEADS = ((0.001, 0.1), (0.1, 1.0))
"""Initial steps along time of the trend and of the seasonal head, in 1 / frames: the memory is 10 to 1000 frames, and 1 to 10."""

BANDS = (0.1, 1.0)
"""Initial steps along bands, of both heads: the context is 1 to 10 bands."""

MIX = -2.0
"""Initial logit of the share that each state takes from the other: 0.12."""


class Chimera2d(StreamingModule):
    """Two-dimensional state space model: (b, t, v * c) -> (b, t, v * c), channels innermost, with a residual connection."""

    def __init__(self, bands: int, channels: int, d_state: int = 4):
        super().__init__()
        heads = len(HEADS)
        if channels % heads:
            raise UserError(
                f"model.subsampling_channels={channels} must be a multiple of {heads}, the heads of a Chimera"
            )
        self.bands, self.channels, self.d_state, self.heads = bands, channels, d_state, heads
        self.in_proj = nn.Linear(channels, 2 * channels)  # u, z
        self.x_proj = nn.ModuleList(  # B, C and dt of a direction, each along time and along bands
            nn.Linear(channels, 4 * d_state + 2 * heads, bias=False) for _ in range(2)
        )
        along_time = torch.cat([initial_dt_bias(1, *steps) for _ in range(2) for steps in HEADS])
        self.dt_bias = no_weight_decay(torch.stack([along_time, initial_dt_bias(2 * heads, *BANDS)]))  # (2, 2 * heads)
        self.A_log = no_weight_decay(torch.zeros(2, 2 * heads))
        self.mix = no_weight_decay(torch.full((2, 2 * heads), MIX))
        self.D = no_weight_decay(torch.ones(channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def init_state(self, batch, *, device=None, dtype=None):
        accumulator = torch.float64 if dtype == torch.float64 else torch.float32
        heads = 2 * self.heads
        shape = (batch, 2, self.bands, heads, self.d_state, self.channels // self.heads)
        return torch.zeros(shape, device=device, dtype=accumulator)

    def step(self, x: Tensor, lengths: Tensor, state: Tensor) -> Step:
        """Process x (b, t, v * c).  The state (b, 2, v, 2 * heads, n, p) has the heads of the direction up the bands first."""
        x = mask(x, lengths).unflatten(2, (self.bands, self.channels))
        u, z = self.in_proj(x).chunk(2, -1)
        u = F.silu(u)
        up_and_down = torch.stack([u, u.flip(2)], 3)  # (b, t, v, 2, c)
        maps = torch.stack([proj(v) for proj, v in zip(self.x_proj, up_and_down.unbind(3), strict=True)], 3)
        B, C, dt = maps.split([2 * self.d_state, 2 * self.d_state, 2 * self.heads], -1)  # (b, t, v, 2, .)
        B, C, dt = (v.unflatten(-1, (2, -1)).transpose(3, 4) for v in (B, C, dt))  # (b, t, v, 2 axes, 2 directions, .)
        y, state = scan2d(
            up_and_down.unflatten(-1, (self.heads, -1)).flatten(3, 4),  # (b, t, v, 2 * heads, p)
            F.softplus(dt.flatten(-2).to(self.dt_bias.dtype) + self.dt_bias),
            -self.A_log.exp(),
            self.mix.sigmoid(),
            B,
            C,
            initial_state=state,
            lengths=lengths,
        )
        up, down = y.unflatten(3, (2, -1)).flatten(-2).unbind(3)  # (b, t, v, c)
        y = up + down.flip(2) + self.D.to(u.dtype) * u
        return Step((x + self.out_proj(y * F.silu(z))).flatten(2), lengths, state)
