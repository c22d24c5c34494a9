"""The definition of the two-dimensional scan: a loop over time, and in it a loop over bands.  Every faster version must agree.

b rows, t time steps, v bands, h heads, p channels of a head, g groups of heads, n states per channel
"""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.ops.precision import accumulation_dtype
from samba_asr.streaming import mask, valid_mask


def scan2d_naive(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    mix: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.scan2d` for the contract."""
    dtype = accumulation_dtype(x, dt, A, mix, B, C, initial_state)
    b, t, v, h, p = x.shape
    g, n = B.shape[4:]
    out_dtype = x.dtype
    x, dt, B, C = (mask(value, lengths).to(dtype) for value in (x, dt, B, C))
    A, mix = A.to(dtype), mix.to(dtype)
    valid = None if lengths is None else valid_mask(lengths, t)
    state = x.new_zeros(b, 2, v, h, n, p) if initial_state is None else initial_state.to(dtype)
    heads = lambda maps: maps.repeat_interleave(h // g, 2)  # noqa: E731  (b, 2, g, n) -> (b, 2, h, n)
    ys = []
    for x_t, dt_t, B_t, C_t, i in zip(*(value.unbind(1) for value in (x, dt, B, C)), range(t), strict=True):
        past1, past2 = state.unbind(1)  # (b, v, h, n, p)
        h1s, h2s, row = [], [], []
        for j in range(v):
            decay = torch.exp(dt_t[:, j] * A)[..., None, None]  # (b, 2, h, 1, 1)
            weight = (dt_t[:, j, :, :, None] * heads(B_t[:, j]))[..., None]  # (b, 2, h, n, 1)
            entering = weight * x_t[:, j, None, :, None]  # (b, 2, h, n, p)
            m1, m2 = mix[:, :, None, None]
            h1 = decay[:, 0] * ((1 - m1) * past1[:, j] + m1 * past2[:, j]) + entering[:, 0]
            h2 = entering[:, 1]
            if j:
                h2 = h2 + decay[:, 1] * (m2 * h1s[-1] + (1 - m2) * h2s[-1])
            h1s.append(h1)
            h2s.append(h2)
            C1, C2 = heads(C_t[:, j])[..., None].unbind(1)  # (b, h, n, 1)
            row.append((C1 * h1 + C2 * h2).sum(2))
        after = torch.stack([torch.stack(h1s, 1), torch.stack(h2s, 1)], 1)
        state = after if valid is None else torch.where(valid[:, i].view(b, 1, 1, 1, 1, 1), after, state)
        ys.append(torch.stack(row, 1))
    y = torch.stack(ys, 1) if ys else x
    return mask(y, lengths).to(out_dtype), state
