"""The definition of the selective scan: one loop over time.  Every faster version must agree with it.

b rows, t time steps, d channels, n states per channel, or n / 2 complex pairs of them
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
    A_imag: Tensor | None = None,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.selective_scan` for the contract.  Step by step:  h = exp(dt A) h + dt x B,  y = C h + D x.

    With A_imag all but x and dt is complex, and y = 2 Re(C h) + D x.
    """
    b, t, d = x.shape
    dtype = accumulation_dtype(x, dt, A, B, C, D, initial_state)
    whole = (lambda v: v) if A_imag is None else (lambda v: torch.complex(*v.chunk(2, -1)))
    twice = 1 if A_imag is None else 2
    valid = torch.ones(b, t, dtype=torch.bool, device=x.device)
    if lengths is not None:
        valid = torch.arange(t, device=x.device) < lengths[:, None]
    hidden = ~valid[..., None]  # padding may hold NaN, and 0 * NaN is NaN, in gradients too: mask it before any product
    x_, dt_, B_, C_ = (v.to(dtype).masked_fill(hidden, 0) for v in (x, dt, B, C))
    h = whole(x_.new_zeros(b, d, B.shape[-1]) if initial_state is None else initial_state.to(dtype))
    A = A.to(dtype) if A_imag is None else torch.complex(A.to(dtype), A_imag.to(dtype))
    B_, C_ = whole(B_), whole(C_)
    ys = [x_.new_zeros(b, 0, d)]
    for i in range(t):
        before = h if reset is None else h.masked_fill(reset[:, i, None, None], 0)
        decay = torch.exp(dt_[:, i, :, None] * A)  # (b, d, n)
        after = decay * before + (dt_[:, i] * x_[:, i])[:, :, None] * B_[:, i, None, :]
        h = torch.where(valid[:, i, None, None], after, h)
        y = twice * (h * C_[:, i, None, :]).sum(-1).real  # (b, d)
        ys.append((y if D is None else y + D.to(dtype) * x_[:, i])[:, None])
    state = h if A_imag is None else torch.cat([h.real, h.imag], -1)
    return torch.cat(ys, dim=1).masked_fill(hidden, 0).to(x.dtype), state
