"""Blocks of time: their limits, and reversal of time inside each.

Time is cut into blocks of L steps, counted from the start.  Each row has its own L.  `samba_asr.nn.blocks` says why.
Shapes: b batch, t time, d channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.device import upload
from samba_asr.ops.elapsed import Elapsed
from samba_asr.ops.exporting import exporting
from samba_asr.streaming import mask


class Blocks(NamedTuple):
    """The blocks of a chunk.  The chunk begins at the start of a block."""

    rows: Tensor  # (b * t,) index that reverses time inside each block; its own inverse
    start: Tensor | None  # (b, t) bool, first step of a block (in reversed time too); None: each row is one block
    ragged: Tensor | None  # (b,) valid steps, as `lengths`; None: all rows are full, so no mask is needed
    sizes: Tensor  # (b,) steps per block of each row, with those that are skipped (samba_asr.nn.skip)
    keep: Tensor | None = (
        None  # (b,) steps after which the state is taken; later steps come again.  None: all valid steps
    )
    before: Elapsed | None = (
        None  # time before each step, for layers that run forward; None: no time but that of the steps
    )
    after: Elapsed | None = (
        None  # time after each step inside its block, for layers that run backward, in forward order
    )
    padding: Tensor | None = (
        None  # (b, t, 1) bool, the steps that are not valid, if somebody laid them out for all layers
    )
    most: int | None = None  # blocks in a row, at most, where the CPU knows it
    finite: bool = False  # the padding is finite in every layer, so that masks would only guard against NaN
    whole: bool = False  # rows are whole utterances: their states begin as zeros, and the last ones are not used

    @property
    def has_gaps(self) -> bool:
        """Whether there are gaps, or blocks from which frames are missing: Triton's kernels for both directions know neither."""
        return self.before is not None and self.before.gap is not None

    def to(self, device: torch.device) -> Blocks:
        """Copy the layout of a chunk without elapsed time to a device, without waiting for it."""
        return Blocks._make(upload(v, device) if isinstance(v, Tensor) else v for v in self)

    def mask(self, x: Tensor) -> Tensor:
        """Zero the padding of x (b, t, d), as `samba_asr.streaming.mask` does, unless it is known to be finite."""
        if self.finite:
            return x
        return mask(x, self.ragged) if self.padding is None else x.masked_fill(self.padding, 0)

    @property
    def kept(self) -> Tensor | None:
        """Number of steps after which states are taken, (b,); None as for `ragged`."""
        return self.ragged if self.keep is None else self.keep


def lay_blocks(lengths: Tensor, t: int, size: Tensor | int) -> Blocks:
    """Cut the valid steps of each row, lengths (b,), into blocks of `size` steps, (b,) or one number.  The last may be short."""
    i = torch.arange(t, device=lengths.device).expand(lengths.shape[0], -1)
    size = torch.as_tensor(size, device=lengths.device).expand(lengths.shape[0])[:, None]
    begin = i // size * size
    end = torch.minimum(begin + size, lengths[:, None])  # one past the last step
    valid = i < lengths[:, None]
    single = t <= int(size.min()) if t else True
    full = bool((lengths >= t).all())
    flip = torch.where(valid, begin + end - 1 - i, i)  # (b, t), the identity after the valid steps
    rows = (flip + torch.arange(flip.shape[0], device=flip.device)[:, None] * t).flatten()
    start, padding = None if single else valid & (i == begin), None if full else ~valid[..., None]
    most = -(-t // int(size.min())) if start is not None and lengths.device.type == "cpu" else None
    return Blocks(rows, start, None if full else lengths, size[:, 0], padding=padding, most=most)


def elapse(blocks: Blocks, gap: Tensor | None, span: Tensor | None = None) -> Blocks:
    """Add elapsed time (samba_asr.ops.elapsed) to blocks: gap (b, t) >= 0 before each step, span (b, t) > 0 of each step.

    After the valid steps both may hold anything.  A backward scan meets the gap before step i + 1 as that before step i: shifted
    by one, and none at the end of a block.
    """
    gap, span = (None if v is None else _valid(v, blocks.ragged) for v in (gap, span))
    if gap is None:
        time = Elapsed(None, span)
        return blocks._replace(before=time, after=time)
    after = F.pad(gap, (0, 1))[:, 1:]
    if blocks.start is not None:
        after = after.masked_fill(F.pad(blocks.start, (0, 1))[:, 1:], 0)
    return blocks._replace(before=Elapsed(gap, span), after=Elapsed(after, span))


def _valid(x: Tensor, lengths: Tensor | None) -> Tensor:
    return x if lengths is None else x.masked_fill(torch.arange(x.shape[1], device=x.device) >= lengths[:, None], 0)


def backward_time(blocks: Blocks) -> Elapsed | None:
    """Return the elapsed time of blocks in reversed time, for a scan of `flip(x, blocks)`."""
    if blocks.after is None:
        return None
    return Elapsed(*(None if v is None else flip(v, blocks) for v in blocks.after))


class _Flip(torch.autograd.Function):
    """Reorder steps by an index that is its own inverse, so the same index reorders the gradient.

    autograd's gradient of indexing is a scatter-add, which is slow on a CPU.
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
    """Reverse time inside each block of x (b, t, ...)."""
    if exporting():  # each row is one block
        return x.flip(1)
    if not torch.is_grad_enabled():  # in a short live step, an autograd function costs as much as the reordering
        return _reordered(x, blocks.rows)
    return _Flip.apply(x, blocks.rows)


def _reordered(x: Tensor, rows: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[2:]).index_select(0, rows).view(x.shape)
