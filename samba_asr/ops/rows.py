"""Rows that lie end to end in time (packed) for backends that want them side by side, padded.

    offsets (r + 1,)   where the rows of x (1, s, ...) begin and end: row i is x[:, offsets[i] : offsets[i + 1]]

Shapes: r rows, s steps of all rows together, t steps of the longest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def padded(op: Callable[..., tuple[Tensor, Tensor]], offsets: Tensor, in_time: dict[str, Tensor | None], **others):
    """op(**in_time, **others) on packed rows: `in_time` (1, s, ...) are padded, y is packed again, the state has r rows."""
    check_offsets(offsets, in_time["x"])
    s = int(offsets[-1])
    lengths = offsets.diff()  # (r,)
    t = int(lengths.max()) if len(lengths) else 0
    step = torch.arange(t, device=offsets.device)
    index = (offsets[:-1, None] + step).clamp(max=max(s - 1, 0))  # (r, t), somebody else's steps behind a row's own
    side_by_side = {name: None if v is None else v[0][index] for name, v in in_time.items()}
    y, state = op(**side_by_side, **others, lengths=lengths)
    return y[step < lengths[:, None]][None], state


def check_offsets(offsets: Tensor, x: Tensor) -> None:
    """ValueError unless the offsets begin at 0, never fall, and end where x (1, s, ...) does."""
    if x.shape[0] != 1 or offsets.dim() != 1 or len(offsets) == 0:
        raise ValueError(f"offsets {tuple(offsets.shape)} are (r + 1,) for x of one row, x has {x.shape[0]}")
    if int(offsets[0]) != 0 or int(offsets[-1]) != x.shape[1] or bool((offsets.diff() < 0).any()):
        raise ValueError(f"offsets {offsets.tolist()} must rise from 0 to the {x.shape[1]} steps of x")
