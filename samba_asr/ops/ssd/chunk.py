"""SSD in matrix form: products inside chunks of time, a short recurrence between them.

Inside a chunk the scan is the product with a lower-triangular matrix (C_i . B_j) exp(a_i - a_j) dt_j, where a is the running
sum of dt A (arXiv 2405.21060, section 6).  All chunks are computed at once; only their final states are combined in a loop,
t / chunk steps long.  Every exponent is a sum of terms <= 0, so nothing overflows at any step size.  Each term is clamped to
the logarithm of the smallest number: its decay is 0 anyway, and the other terms keep their digits in the sums.

Shapes: b batch, c chunks, q steps in a chunk, h heads, p channels of a head, g groups, n state.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.ops.exporting import exporting, is_short
from samba_asr.ops.precision import accumulation_dtype


def ssd_chunk(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    chunk: int = 32,
) -> tuple[Tensor, Tensor]:
    """See `samba_asr.ops.ssd.ssd` for the contract.  `chunk`: steps in a chunk, any number."""
    b, t, h, p = x.shape
    g, n = B.shape[2:]
    if initial_state is None:
        initial_state = torch.zeros(b, h, p, n, dtype=accumulation_dtype(x), device=x.device)
    if t == 0:
        return x.new_zeros(b, 0, h, p), initial_state
    if lengths is not None:
        # dt = 0: no decay and no input, so the state stays.  Its factors are zeroed too, because 0 * NaN is NaN.
        invalid = torch.arange(t, device=x.device) >= lengths[:, None]  # (b, t)
        x, B, C = (v.masked_fill(invalid[..., None, None], 0) for v in (x, B, C))
        dt = dt.masked_fill(invalid[..., None], 0)
        if reset is not None:
            reset = reset & ~invalid

    single = exporting() and is_short()
    if exporting():  # t may be a symbol: nothing may depend on its value
        q, c = (t, 1) if single else (chunk, (t + chunk - 1) // chunk)  # not -(-t // q): ONNX rounds toward zero
    else:
        q = min(chunk, t)
        c = -(-t // q)
    x, dt, B, C = (_split(v, c, q) for v in (x, dt, B, C))  # (b, c, q, ...)
    a = (dt.float() if dt.dtype != torch.float64 else dt) * A  # (b, c, q, h)
    a = a.clamp(min=math.log(torch.finfo(a.dtype).tiny)).cumsum(2)  # log decay since the chunk began
    x = x * dt.to(x.dtype)[..., None]  # (b, c, q, h, p), each input times its step
    B, C = (v.transpose(2, 3) for v in (B, C))  # (b, c, g, q, n)

    # 1. inside chunks
    hidden = torch.ones(q, q, dtype=torch.bool, device=x.device).triu(1)  # (q, q) steps after each step
    if reset is not None:
        resets = _split(reset, c, q).to(torch.int32).cumsum(2)  # (b, c, q)
        hidden = (hidden | (resets[..., None] != resets[..., None, :]))[:, :, None]  # (b, c, 1, q, q)
    by_head = a.transpose(2, 3)  # (b, c, h, q)
    decay = (by_head[..., None] - by_head[..., None, :]).masked_fill(hidden, -torch.inf).exp()  # (b, c, h, q, q)
    scores = C @ B.mT  # (b, c, g, q, q)
    decay = decay.to(scores.dtype).view(b, c, g, h // g, q, q)
    weights = (scores.unsqueeze(3) * decay).view(b, c, h, q, q)
    y = (weights @ x.transpose(2, 3)).transpose(2, 3)  # (b, c, q, h, p)

    # 2. what each chunk adds to the state, and the recurrence between chunks.  The heads of a group share B and C: with
    # heads side by side as columns, one product per group is enough.
    to_end = (a[:, :, -1:] - a).exp()  # (b, c, q, h)
    from_start = a.exp()  # (b, c, q, h)
    if reset is not None:
        to_end = to_end * (resets == resets[..., -1:])[..., None]  # steps that reach the chunk's last state
        from_start = from_start * resets.eq(0)[..., None]  # steps that the chunk's first state reaches
    columns = (
        (x * to_end.to(x.dtype)[..., None]).view(b, c, q, g, h // g * p).transpose(2, 3)
    )  # (b, c, g, q, h / g * p)
    # The same product in two forms: the first spares backward a transposed operand, the second spares forward one.
    added = (B.mT @ columns).mT if torch.is_grad_enabled() else columns.mT @ B
    added = added.to(initial_state.dtype).reshape(b, c, h, p, n)
    through = from_start[:, :, -1, :, None, None].to(initial_state.dtype)  # (b, c, h, 1, 1) decay over the whole chunk
    if exporting() and not single:
        states = _states_between(a[:, :, -1].to(initial_state.dtype), initial_state, added)
        entering, state = states[:, :-1], states[:, -1]
    else:
        state, before = initial_state, []
        for i in range(c):
            before.append(state)
            state = through[:, i] * state + added[:, i]
        entering = torch.stack(before, 1)
    entering = entering.reshape(b, c, g, h // g * p, n)

    # 3. what the state entering a chunk adds to its outputs
    read = (C @ entering.to(C.dtype).mT).transpose(2, 3).reshape(b, c, q, h, p)
    y = y + read * from_start.to(read.dtype)[..., None]
    y = y.reshape(b, c * q, h, p)[:, :t]
    if lengths is not None:
        y = y.masked_fill(invalid[..., None, None], 0)  # it is 0 already; the mask stops a NaN in its gradient
        state = torch.where((lengths == 0)[:, None, None, None], initial_state, state)  # bit for bit
    return y, state


def _split(x: Tensor, c: int, q: int) -> Tensor:
    """Split (b, t, ...) into chunks (b, c, q, ...), padded with zeros."""
    if exporting() and is_short():
        return x.unsqueeze(1)
    padding = c * q - x.shape[1]
    if exporting() or padding:
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, padding))
    return x.reshape(x.shape[0], c, q, *x.shape[2:])


def _states_between(log_decay: Tensor, initial_state: Tensor, added: Tensor) -> Tensor:
    """Return the states (b, c + 1, h, p, n) before each chunk and after the last, without a loop over chunks.

    An exported graph cannot loop a number of times that is known only when it runs.  So every state is one sum over the initial
    state and all earlier chunks, each with its decay since then: the product with a matrix of c + 1 rows.
    log_decay: (b, c, h) over each whole chunk.  added: (b, c, h, p, n) to the state by each chunk.
    """
    c = log_decay.shape[1]
    columns = F.pad(log_decay.transpose(1, 2), (1, 0))[..., None].expand(-1, -1, -1, c + 1)  # (b, h, c + 1, c + 1)
    step = torch.arange(c + 1, device=log_decay.device)
    after, same = step[:, None] > step, step[:, None] == step
    # [i, j] is the decay from before chunk j to before chunk i: the sum of the chunks j .. i - 1
    decay = columns.masked_fill(~after, 0).cumsum(2).masked_fill(~(after | same), -torch.inf).exp()
    parts = torch.cat([initial_state[:, None], added], 1).transpose(1, 2)  # (b, h, c + 1, p, n)
    return (decay @ parts.flatten(3)).unflatten(3, parts.shape[3:]).transpose(1, 2)
