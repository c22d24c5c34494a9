"""Rows side by side and padded, or end to end in time (packed): one call for both, whatever a backend takes.

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
    """op(**in_time, **others) on padded or packed rows; `in_time` has the tensors with time, x among them.

    Packed rows are padded for an op that does not take offsets, and its y is packed again.  ValueError for offsets that do
    not fit x, or lengths beside them.
    """
    if offsets is None:
        return op(**in_time, **others, lengths=lengths)
    if lengths is not None:
        raise ValueError("give lengths of padded rows, or offsets of packed ones, not both")
    _check_offsets(offsets, in_time["x"])
    if takes_offsets:
        return op(**in_time, **others, offsets=offsets)
    lengths = offsets.diff()  # (r,)
    step = torch.arange(int(lengths.max()) if len(lengths) else 0, device=offsets.device)  # (t,)
    last = max(in_time["x"].shape[1] - 1, 0)
    index = (offsets[:-1, None] + step).clamp(max=last)  # (r, t), somebody else's steps behind a row's own
    side_by_side = {name: None if v is None else v[0][index] for name, v in in_time.items()}
    y, state = op(**side_by_side, **others, lengths=lengths)
    return y[step < lengths[:, None]][None], state


def _check_offsets(offsets: Tensor, x: Tensor) -> None:
    """They begin at 0, never fall, and end where x (1, s, ...) does."""
    if x.shape[0] != 1 or offsets.dim() != 1 or len(offsets) == 0:
        raise ValueError(f"offsets {tuple(offsets.shape)} are (r + 1,) for x of one row, x has {x.shape[0]}")
    found = offsets.tolist()  # one wait for the device, not one for each question
    if found[0] != 0 or found[-1] != x.shape[1] or found != sorted(found):
        raise ValueError(f"offsets {found} must rise from 0 to the {x.shape[1]} steps of x")
