"""Rows of an op: padded (side by side) or packed (end to end in time), and cut into segments by resets.

    lengths (b,)       padded: the first lengths[i] steps of row i of x (b, t, ...) are valid
    offsets (r + 1,)   packed: row i is x[:, offsets[i] : offsets[i + 1]] of x (1, s, ...)

Shapes: b padded rows, r packed rows, s steps of all rows together, t steps of the longest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def run(
    op: Callable[..., tuple[Tensor, Tensor]],
    in_time: dict[str, Tensor | None],
    *,
    lengths: Tensor | None,
    offsets: Tensor | None,
    takes_offsets: bool,
    **others: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Call op(**in_time, **others) on padded or packed rows.  `in_time`: the tensors with a time axis, x among them.

    For an op that does not take offsets, packed rows are padded, and its y is packed again.  ValueError if the offsets do
    not fit x, or if lengths are given too.
    """
    if offsets is None:
        return op(**in_time, **others, lengths=lengths)
    if lengths is not None:
        raise ValueError("give lengths of padded rows or offsets of packed rows, not both")
    x = in_time["x"]
    assert x is not None
    _check_offsets(offsets, x)
    if takes_offsets:
        return op(**in_time, **others, offsets=offsets)
    lengths = offsets.diff()  # (r,)
    step = torch.arange(int(lengths.max()) if len(lengths) else 0, device=offsets.device)  # (t,)
    last = max(x.shape[1] - 1, 0)
    index = (offsets[:-1, None] + step).clamp(max=last)  # (r, t), steps of the next rows after a row's own
    side_by_side = {name: None if v is None else v[0][index] for name, v in in_time.items()}
    y, state = op(**side_by_side, **others, lengths=lengths)
    return y[step < lengths[:, None]][None], state


def _check_offsets(offsets: Tensor, x: Tensor) -> None:
    """Raise ValueError unless offsets begin at 0, never fall, and end at the end of x (1, s, ...)."""
    if x.shape[0] != 1 or offsets.dim() != 1 or len(offsets) == 0:
        raise ValueError(f"offsets {tuple(offsets.shape)} must be (r + 1,) for x of one row, x has {x.shape[0]}")
    found = offsets.tolist()  # one synchronization with the device instead of one per comparison
    if found[0] != 0 or found[-1] != x.shape[1] or found != sorted(found):
        raise ValueError(f"offsets {found} must rise from 0 to the {x.shape[1]} steps of x")


# ---- resets: segments as rows ----------------------------------------------------------------------------------------


Piecewise = Callable[[Tensor, Tensor | None, Tensor | None, bool], tuple[Tensor, Tensor | None]]
"""op(x (r, t, d), state (r, ...) or None for zeros, lengths (r,) or None, final) -> y (r, t, d), state (r, ...) if `final`."""


def by_segments(
    op: Piecewise, x: Tensor, initial_state: Tensor, lengths: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Give an op that knows no resets what they mean: a reset begins a segment, and segments become rows of the op.

    x (b, t, d) with zeros after `lengths` (b,); initial_state (b, ...); reset (b, t), or None.  A reset at the first step, or
    at a later one, clears the state before it; at an invalid step it does nothing.
    Returns y (b, t, d), zeros after `lengths`, and the state (b, ...) after each row's last valid step.

    The segments inside a row start from zeros and nobody reads their final state, so the op is spared both.
    """
    b, t, d = x.shape
    if t == 0:
        return x, initial_state
    if reset is None:
        y, state = op(x, initial_state, lengths, True)
        assert state is not None
        return y, state
    ends = x.new_full((b,), t, dtype=torch.long) if lengths is None else lengths
    step = torch.arange(t, device=x.device)
    begins = (reset | (step == 0)) & (step < ends[:, None])
    row, first = begins.nonzero(as_tuple=True)  # of each segment, in order of rows and time
    last = row != torch.cat([row[1:], row.new_full((1,), -1)])
    size = torch.where(last, ends[row], torch.cat([first[1:], first.new_zeros(1)])) - first
    goes_on = (first == 0) & ~reset[row, 0]
    flat, y, state = x.reshape(b * t, d), None, initial_state
    slot = torch.full((b * t,), -1, device=x.device)  # where each step is in the ops' outputs, end to end
    outputs, taken = [], 0
    for group in _groups(size, goes_on | last):
        steps = torch.arange(int(size[group].max()), device=x.device)
        inside = steps < size[group, None]  # (r, t')
        source = torch.where(inside, row[group, None] * t + first[group, None] + steps, -1).flatten()
        back = torch.full_like(slot, -1)
        back[source[inside.flatten()]] = torch.arange(len(source), device=x.device)[inside.flatten()]
        slot = torch.where(back >= 0, back + taken, slot)
        taken += len(source)
        edge = bool((goes_on | last)[group].any())
        start = None
        if edge:
            keeps = goes_on[group].view(-1, *[1] * (state.dim() - 1))
            start = initial_state[row[group]].masked_fill(~keeps, 0)
        pieces = move(flat, source, back).view(*inside.shape, d)
        full = bool(inside.all())
        y, after = op(pieces, start, None if full else size[group], edge)
        outputs.append(y.reshape(-1, d))
        if after is not None:
            ending = last[group]
            state = state.index_put((row[group][ending],), after[ending].to(state.dtype))
    if not outputs:
        return torch.zeros_like(x), initial_state
    source = torch.full((taken,), -1, device=x.device)
    valid = (slot >= 0).nonzero()[:, 0]
    source[slot[valid]] = valid
    return move(torch.cat(outputs), slot, source).view(b, t, d), state


WASTE = 4
"""Segments are grouped by length if, side by side, they would hold more than this many times their steps."""


def _groups(size: Tensor, edge: Tensor) -> list[Tensor]:
    """Group the segments of sizes `size` (s,): those at the edges of rows, and the others; each of similar lengths if need be."""
    found = []
    for kind in (edge, ~edge):
        index = kind.nonzero()[:, 0]
        if not len(index):
            continue
        own = size[index]
        if int(own.max()) * len(own) <= WASTE * int(own.sum()):
            found.append(index)
        else:
            power = own.double().log2().ceil()
            found += [index[power == p] for p in power.unique()]
    return found


def move(x: Tensor, source: Tensor, back: Tensor) -> Tensor:
    """Return y[i] = x[source[i]], or 0 where source[i] < 0.  Each row of x goes to one place at most, given by `back`."""
    return _Move.apply(x, source, back)


class _Move(torch.autograd.Function):
    """See `move`.

    autograd's gradient of indexing is a scatter-add, which is slow on a CPU.
    """

    @staticmethod
    def forward(ctx, x: Tensor, source: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(source, back)
        return _moved(x, source)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        _, back = ctx.saved_tensors
        return _moved(gradient, back), None, None


def _moved(x: Tensor, source: Tensor) -> Tensor:
    return x.index_select(0, source.clamp(min=0)).masked_fill(source[:, None] < 0, 0)
