"""The definition of ParaRNN's cells: one loop over time.  Every faster version must agree with it.

b rows, t time steps, d channels
"""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.ops.precision import accumulation_dtype
from samba_asr.streaming import mask, valid_mask


def para_gru_naive(
    x: Tensor,
    A: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.para_gru` for the contract."""
    dtype = accumulation_dtype(x, A, initial_state)
    b, t, _, d = x.shape
    inputs, A = mask(x, lengths).to(dtype), A.to(dtype)
    h = inputs.new_zeros(b, d) if initial_state is None else initial_state.to(dtype)
    valid = None if lengths is None else valid_mask(lengths, t)
    ys = [inputs.new_zeros(b, 0, d)]
    for i, step in enumerate(inputs.unbind(1)):
        x_z, x_r, x_c = step.unbind(1)
        before = h if reset is None else h.masked_fill(reset[:, i, None], 0)
        z = torch.sigmoid(A[0] * before + x_z)
        r = torch.sigmoid(A[1] * before + x_r)
        c = torch.tanh(A[2] * before * r + x_c)
        after = before + z * (c - before)
        h = after if valid is None else torch.where(valid[:, i, None], after, h)
        ys.append(h[:, None])
    return mask(torch.cat(ys, dim=1), lengths).to(x.dtype), h


def para_lstm_naive(
    x: Tensor,
    A: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.para_lstm` for the contract."""
    dtype = accumulation_dtype(x, A, C, initial_state)
    b, t, _, d = x.shape
    inputs, A, C = mask(x, lengths).to(dtype), A.to(dtype), C.to(dtype)
    state = inputs.new_zeros(b, 2, d) if initial_state is None else initial_state.to(dtype)
    valid = None if lengths is None else valid_mask(lengths, t)
    ys = [inputs.new_zeros(b, 0, d)]
    for i, step in enumerate(inputs.unbind(1)):
        x_f, x_o, x_g = step.unbind(1)
        before = state if reset is None else state.masked_fill(reset[:, i, None, None], 0)
        c, h = before.unbind(1)
        f = torch.sigmoid(A[0] * h + C[0] * c + x_f)
        g = torch.tanh(A[2] * h + x_g)
        c = f * c + (1 - f) * g
        o = torch.sigmoid(A[1] * h + C[1] * c + x_o)
        after = torch.stack([c, o * torch.tanh(c)], 1)
        state = after if valid is None else torch.where(valid[:, i, None, None], after, state)
        ys.append(state[:, None, 1])
    return mask(torch.cat(ys, dim=1), lengths).to(x.dtype), state
