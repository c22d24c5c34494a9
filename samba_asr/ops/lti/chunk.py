"""The time-invariant models in chunks of time: matrix products, and one loop over chunks.

The matrices of a chunk (`system.Closed`) are the same for all rows and, but for K and R, for all channels of a group.

b rows, t time steps, g groups, h channels of a group, d = g h; N real states; q steps of a chunk, c chunks
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.ops import rows
from samba_asr.ops.lti.system import Prepared
from samba_asr.streaming import take_time

CHUNK = 32  # most steps of a chunk
FEW = 1000  # steps of all rows below which chunks of half the length are faster, for their matrices are computed sooner


def lti_chunk(
    x: Tensor, prepared: Prepared, initial_state: Tensor, *, lengths: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `dispatch.lti` for the contract."""
    steps = x.shape[0] * x.shape[1]

    def run(x: Tensor, state: Tensor | None, lengths: Tensor | None, final: bool) -> tuple[Tensor, Tensor | None]:
        return _run(x, prepared, state, lengths, final, chunk_steps(x.shape[1], steps))

    return rows.by_segments(run, x, initial_state, lengths, reset)


def chunk_steps(t: int, steps: int) -> int:
    """Return q for rows of t steps, `steps` of all rows together: a power of two."""
    most = CHUNK if steps >= FEW else CHUNK // 2
    return min(most, 1 << max(t - 1, 0).bit_length())


def _run(
    x: Tensor, prepared: Prepared, state: Tensor | None, lengths: Tensor | None, final: bool, q: int
) -> tuple[Tensor, Tensor | None]:
    """See `rows.by_segments`: no resets here, and x is 0 after `lengths`."""
    b, t, d = x.shape
    K, R, W, M = prepared.closed(q)
    g, h, _, n = R.shape
    c = -(-t // q)
    u = F.pad(x, (0, 0, 0, c * q - t)).view(b, c, q, g, h).permute(3, 4, 2, 0, 1)  # (g, h, q, b, c)
    y = K @ u.reshape(g, h, q, b * c)
    at = (
        None if state is None else state.view(b, g, h, n).permute(1, 3, 2, 0)
    )  # (g, N, h, b), of the last chunk entered
    if c > 1:
        moved = (W @ u.transpose(1, 2).reshape(g, q, -1)).view(g, n, h, b, c).unbind(-1)
        at = x.new_zeros(g, n, h, b) if at is None else at
        entering = [at]
        for own in moved if final else moved[:-1]:
            entering.append(torch.baddbmm(own.reshape(g, n, -1), M, entering[-1].reshape(g, n, -1)).view(own.shape))
        states = torch.stack(entering, -1)  # (g, N, h, b, c or c + 1)
        y = y + R @ states[..., :c].transpose(1, 2).reshape(g, h, n, b * c)
    else:
        states = None
        if at is not None:
            y = y + R @ at.transpose(1, 2)
    y = y.view(g, h, q, b, c).permute(3, 4, 2, 0, 1).reshape(b, c * q, d)[:, :t]
    if not final:
        return y, None
    if at is None:
        at = x.new_zeros(g, n, h, b)
    after = _end(x, prepared, at, states, lengths, q)
    return y, after.permute(3, 0, 2, 1).reshape(b, d, n)


def _end(x: Tensor, prepared: Prepared, at: Tensor, states: Tensor | None, lengths: Tensor | None, q: int) -> Tensor:
    """Return (g, N, h, b) the state after each row's last valid step.

    From the state at the last whole chunk before it: the rest of the steps at once, as powers of M by their binary digits, and W
    of the last inputs.
    at: the first state; states (g, N, h, b, c + 1): all that enter chunks, and the last; None if there is one chunk.
    """
    b, t, _ = x.shape
    _, R, W, M = prepared.closed(q)
    g, h, _, n = R.shape
    if lengths is None:  # the same for all rows
        whole = 0 if states is None else t // q
        rest = t - whole * q
        at = at if states is None else states[..., whole]
        if not rest:
            return at
        u = x[:, t - rest :].view(b, rest, g, h).permute(2, 1, 3, 0).reshape(g, rest, h * b)
        flat = at.reshape(g, n, h * b)
        for i in range(rest.bit_length()):
            if rest >> i & 1:
                flat = (M if 1 << i == q else prepared.power(i)) @ flat
        return torch.baddbmm(flat, W[..., q - rest :], u).view(g, n, h, b)
    whole = torch.zeros_like(lengths) if states is None else lengths // q
    rest = lengths - whole * q  # (b,) 0 .. q
    at = at if states is None else states[..., torch.arange(b, device=x.device), whole]
    position = torch.arange(q, device=x.device)
    u = take_time(F.pad(x, (0, 0, q, 0)), lengths[:, None] + position)  # the last q inputs, zeros before the first
    u = u.masked_fill((position < q - rest[:, None])[..., None], 0)
    flat = at.reshape(g, n, h * b)
    for i in range(q.bit_length()):
        power = M if 1 << i == q else prepared.power(i)
        flat = torch.where((rest >> i & 1).bool().repeat(h), power @ flat, flat)
    u = u.view(b, q, g, h).permute(2, 1, 3, 0).reshape(g, q, h * b)
    return torch.baddbmm(flat, W, u).view(g, n, h, b)
