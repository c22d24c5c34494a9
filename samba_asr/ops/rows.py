"""Padded rows (side by side) and packed rows (end to end in time): one call for both, for every backend.

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
