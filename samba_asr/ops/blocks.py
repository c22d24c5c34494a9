"""Blocks of time: where each begins and ends, and time reversed inside each.

Time is cut into blocks of L steps, counted from the start; each row has its own L (samba_asr.nn.blocks says what for).
Shapes: b batch, t time, d channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Blocks(NamedTuple):
    """The blocks of a chunk that begins where a block begins."""

    rows: Tensor  # (b * t,) where each step comes from when time is reversed inside each block; its own inverse
    start: Tensor | None  # (b, t) bool, first step of a block (in reversed time too); None: each row is one block
    ragged: Tensor | None  # (b,) valid steps, as `lengths`; None: all rows are full, so there is nothing to mask
    sizes: Tensor  # (b,) steps in a block of each row
    keep: Tensor | None = (
        None  # (b,) steps after which states are handed on; those behind come again.  None: all that are valid
    )

    @property
    def kept(self) -> Tensor | None:
        """(b,) steps behind which states are taken, as `ragged`."""
        return self.ragged if self.keep is None else self.keep


def lay_blocks(lengths: Tensor, t: int, size: Tensor | int) -> Blocks:
    """Cut the valid steps of each row, lengths (b,), into blocks of `size` steps, (b,) or one for all; the last may be short."""
    i = torch.arange(t, device=lengths.device).expand(lengths.shape[0], -1)
    size = torch.as_tensor(size, device=lengths.device).expand(lengths.shape[0])[:, None]
    begin = i // size * size
    end = torch.minimum(begin + size, lengths[:, None])  # one past the last step
    valid = i < lengths[:, None]
    single = t <= int(size.min()) if t else True
    full = bool((lengths >= t).all())
    flip = torch.where(valid, begin + end - 1 - i, i)  # (b, t), the identity behind the valid steps
    rows = (flip + torch.arange(flip.shape[0], device=flip.device)[:, None] * t).flatten()
    return Blocks(rows, None if single else valid & (i == begin), None if full else lengths, size[:, 0])


class _Flip(torch.autograd.Function):
    """Reorder steps by an index that is its own inverse: then the gradient is reordered by the same index.

    autograd's own gradient of indexing is a scatter-add, which is slow on a CPU.
    """

    @staticmethod
    def forward(ctx, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return _reordered(x, rows)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (rows,) = ctx.saved_tensors
        return _reordered(gradient, rows), None


def flip(x: Tensor, blocks: Blocks) -> Tensor:
    """x (b, t, ...) with time reversed inside each block."""
    if (
        not torch.is_grad_enabled()
    ):  # a live step is short, and an autograd function costs as much as what it does there
        return _reordered(x, blocks.rows)
    return _Flip.apply(x, blocks.rows)


def _reordered(x: Tensor, rows: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[2:]).index_select(0, rows).view(x.shape)
