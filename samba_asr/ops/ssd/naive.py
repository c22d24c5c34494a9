"""The definition of SSD, the scan of Mamba-2, as a recurrence.  Every faster version must agree with it.

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T          (Dao and Gu, arXiv 2405.21060, eq. 1 with scalar A per head)
    y_t = h_t C_t

Shapes: b batch, t time, h heads, p channels of a head, g groups that share B and C (h is a multiple of g), n state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.ops.precision import accumulation_dtype


def ssd_naive(
    x: Tensor,  # (b, t, h, p)
    dt: Tensor,  # (b, t, h) step sizes, positive
    A: Tensor,  # (h,) negative
    B: Tensor,  # (b, t, g, n)
    C: Tensor,  # (b, t, g, n)
    *,
    initial_state: Tensor | None = None,  # (b, h, p, n)
    lengths: Tensor | None = None,  # (b,)
    reset: Tensor | None = None,  # (b, t) bool
) -> tuple[Tensor, Tensor]:
    """See `samba_asr.ops.ssd.ssd` for the contract."""
    b, t, h, p = x.shape
    g, n = B.shape[2:]
    out_dtype, dtype = x.dtype, accumulation_dtype(x, dt, A, B, C, initial_state)
    x, dt, A, B, C = (v.to(dtype) for v in (x, dt, A, B, C))
    if lengths is not None:  # padding may hold NaN, and 0 * NaN is NaN, in gradients too: mask it before any product
        invalid = torch.arange(t, device=x.device) >= lengths[:, None]  # (b, t)
        x, B, C = (v.masked_fill(invalid[..., None, None], 0) for v in (x, B, C))
        dt = dt.masked_fill(invalid[..., None], 0)
    state = x.new_zeros(b, h, p, n) if initial_state is None else initial_state.to(dtype)
    outputs = []
    for i in range(t):
        x_i, dt_i, B_i, C_i = x[:, i], dt[:, i], B[:, i], C[:, i]
        old = state
        if reset is not None:
            state = state.masked_fill(reset[:, i, None, None, None], 0)
        B_i, C_i = (v.repeat_interleave(h // g, dim=1) for v in (B_i, C_i))  # (b, h, n)
        decay = torch.exp(dt_i * A)  # (b, h)
        state = decay[..., None, None] * state + (dt_i[..., None] * x_i)[..., None] * B_i[:, :, None]
        y_i = (state * C_i[:, :, None]).sum(-1)  # (b, h, p)
        if lengths is not None:
            valid = (i < lengths)[:, None, None]
            state = torch.where(valid[..., None], state, old)
            y_i = torch.where(valid, y_i, 0)
        outputs.append(y_i)
    y = torch.stack(outputs, dim=1) if outputs else x.new_zeros(b, 0, h, p)
    return y.to(out_dtype), state
