"""The definition of the selective scan: one loop over time.  Every faster version must agree with it.

b rows, t time steps, d channels, n states per channel
"""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.ops.precision import accumulation_dtype


def selective_scan_naive(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.selective_scan` for the contract.  Step by step:  h = exp(dt A) h + dt x B,  y = C h + D x."""
    b, t, d = x.shape
    dtype = accumulation_dtype(x, dt, A, B, C, D, initial_state)
    valid = torch.ones(b, t, dtype=torch.bool, device=x.device)
    if lengths is not None:
        valid = torch.arange(t, device=x.device) < lengths[:, None]
    hidden = ~valid[..., None]  # padding may hold NaN, and 0 * NaN is NaN, in gradients too: mask it before any product
    x_, dt_, B_, C_ = (v.to(dtype).masked_fill(hidden, 0) for v in (x, dt, B, C))
    A = A.to(dtype)
    h = x_.new_zeros(b, d, A.shape[1]) if initial_state is None else initial_state.to(dtype)
    ys = [x_.new_zeros(b, 0, d)]
    for i in range(t):
        before = h if reset is None else h.masked_fill(reset[:, i, None, None], 0)
        decay = torch.exp(dt_[:, i, :, None] * A)  # (b, d, n)
        after = decay * before + (dt_[:, i] * x_[:, i])[:, :, None] * B_[:, i, None, :]
        h = torch.where(valid[:, i, None, None], after, h)
        y = (h * C_[:, i, None, :]).sum(-1)  # (b, d)
        ys.append((y if D is None else y + D.to(dtype) * x_[:, i])[:, None])
    return torch.cat(ys, dim=1).masked_fill(hidden, 0).to(x.dtype), h
