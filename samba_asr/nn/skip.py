"""Skipped blanks: frames that an intermediate CTC head is sure to be blank do not go through the layers above it.

Most frames of speech are blank, and CTC ignores them.  A frame is kept if the probability of the blank is below a limit there,
or at the frame before: so one frame remains after each spike, and equal tokens stay apart.  For the layers above, the frames
that are left out are a gap (samba_asr.ops.elapsed).  Blocks keep their boundaries in time.  Both depend on nothing that comes
later, so the streaming contract holds, with the last decision and the gap so far as state.

The encoder emits a frame of zeros for a skipped one, and the head takes it for a blank.
Shapes: b rows, t frames, t' frames that remain, d channels, v units.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.ops.blocks import Blocks, elapse
from samba_asr.streaming import take_time, valid_mask


class SkipState(NamedTuple):
    """State of the selection."""

    spoke: Tensor  # (b,) bool, whether the last frame was perhaps no blank
    gap: Tensor  # (b,) frames since the last one that remains


class Selection(NamedTuple):
    """The frames that remain."""

    index: Tensor  # (b, t') their places
    lengths: Tensor  # (b,) their number
    blocks: Blocks
    state: SkipState


def init_skip(batch: int, device: torch.device | None, dtype: torch.dtype | None) -> SkipState:
    """Return the state before the first frame."""
    return SkipState(
        torch.zeros(batch, dtype=torch.bool, device=device), torch.zeros(batch, device=device, dtype=dtype)
    )


def select(blank: Tensor, limit: float, lengths: Tensor, blocks: Blocks, state: SkipState) -> Selection:
    """Choose the frames that remain, of blank (b, t): the probability of the blank at each, and lengths (b,) valid ones."""
    t = blank.shape[1]
    valid = valid_mask(lengths, t)
    spoke = valid & (blank < limit)
    kept = valid & (spoke | F.pad(spoke, (1, 0))[:, :t])
    kept[:, :1] |= valid[:, :1] & state.spoke[:, None]
    number = kept.sum(1)
    width = int(number.max())
    index = torch.argsort(kept.byte(), stable=True, dim=1, descending=True)[:, :width]  # (b, t')

    passed = torch.ones_like(blank) if blocks.before is None or blocks.before.gap is None else 1 + blocks.before.gap
    time = passed.to(state.gap.dtype).cumsum(1)  # (b, t) frames from the start of the chunk to the end of each frame
    ends = take_time(time, index)
    before = torch.cat([-state.gap[:, None], ends[:, :-1]], 1)[:, :width]
    laid = elapse(_lay(index, number, blocks), ends - 1 - before)

    end = lengths if blocks.keep is None else blocks.keep  # frames after which the state is taken
    taken = (kept & valid_mask(end, t)).sum(1)
    last = _at(before if not width else ends, taken - 1).where(taken > 0, -state.gap)
    after = SkipState(
        _at(spoke, end - 1).where(end > 0, state.spoke), (_at(time, end - 1) - last).where(end > 0, state.gap)
    )
    return Selection(index, number, laid if blocks.keep is None else laid._replace(keep=taken), after)


def _at(x: Tensor, i: Tensor) -> Tensor:
    """Return x[b, i[b]] of x (b, t); anything where i is no index."""
    return x.gather(1, i.clamp(0, max(x.shape[1] - 1, 0))[:, None])[:, 0] if x.shape[1] else x.new_zeros(len(x))


def _lay(index: Tensor, lengths: Tensor, blocks: Blocks) -> Blocks:
    """Lay out the blocks of frames that were at `index` (b, t'): they have no size of their own."""
    b, t = index.shape
    k = torch.arange(t, device=index.device).expand(b, -1)
    block = index // blocks.sizes[:, None]
    valid = k < lengths[:, None]
    start = valid & (block != F.pad(block, (1, 0), value=-1)[:, :t])
    begin = torch.where(start, k, 0).cummax(1).values
    following = torch.where(start, k, t).flip(1).cummin(1).values.flip(1)  # the next start at or after each step
    end = torch.minimum(F.pad(following, (0, 1), value=t)[:, 1:], lengths[:, None])
    flip = torch.where(valid, begin + end - 1 - k, k)
    rows = (flip + torch.arange(b, device=index.device)[:, None] * t).flatten()
    return Blocks(rows, start, lengths, blocks.sizes)
