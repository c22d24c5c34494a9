"""Layers at lower frame rates inside an encoder (Serpent, arXiv 2403.17902, in time): groups of frames, and skip connections.

Frames are grouped inside their blocks, from each block's start, so a lower rate adds no latency: a block still emits its frames
when it is whole, and a short last group is the mean of the frames that it has.  (Zipformer and SaShiMi group from the utterance's
start: their chunks must be multiples of every rate, or wait.)
Shapes: b rows, t frames, t' groups, d channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from samba_asr.errors import UserError
from samba_asr.ops.blocks import Blocks, elapse, lay_blocks
from samba_asr.streaming import mask, take_time, valid_mask


class Level(NamedTuple):
    """Frames of one rate: their blocks and lengths, and the way from the frames of the next higher rate."""

    blocks: Blocks
    lengths: Tensor  # (b,)
    group: Tensor  # (b, t) the group of each frame of the higher rate
    count: Tensor  # (b, t') frames in each group, at least 1


def lay_rate(blocks: Blocks, lengths: Tensor, t: int, factor: int) -> Level:
    """Group `factor` frames of each block; the last group of a block may be short.

    A group stands for count / factor steps of the lower rate (`span`), and the gaps before its frames lie before it.
    """
    size = blocks.sizes[:, None]
    per = -(-size // factor)  # (b, 1) groups of a whole block

    def groups(n: Tensor) -> Tensor:
        return n // size[:, 0] * per[:, 0] - (-(n % size[:, 0]) // factor)

    i = torch.arange(t, device=lengths.device)
    number = groups(lengths)
    width = max(int(number.max()), 1)
    group = (i // size * per + i % size // factor).clamp(max=width - 1)  # (b, t)
    valid = valid_mask(lengths, t)
    before = blocks.before
    gap = None if before is None else before.gap
    time = torch.float32 if gap is None else gap.dtype
    count = torch.zeros(len(lengths), width, device=lengths.device, dtype=time).scatter_add(1, group, valid.to(time))
    span = count / factor
    if before is not None and before.span is not None:
        spans = before.span.to(time).masked_fill(~valid, 0)
        span = torch.zeros_like(count).scatter_add(1, group, spans) / factor
    low = lay_blocks(number, width, per[:, 0])
    if blocks.keep is not None:
        low = low._replace(keep=groups(blocks.keep))
    gaps = None
    if gap is not None:
        gaps = torch.zeros_like(count).scatter_add(1, group, gap.masked_fill(~valid, 0)) / factor
    if gaps is not None or bool((span != 1)[valid_mask(number, width)].any()):
        low = elapse(low, gaps, span)
    return Level(low, number, group, count.clamp(min=1))


class Down(nn.Module):
    """Mean of the frames of each group, and a linear map, which begins as the identity."""

    def __init__(self, d: int):
        super().__init__()
        self.linear = nn.Linear(d, d)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, lengths: Tensor, level: Level) -> Tensor:
        """x (b, t, d) with lengths (b,) -> (b, t', d)."""
        b, _, d = x.shape
        total = x.new_zeros(b, level.count.shape[1], d)
        total = total.scatter_add(1, level.group[..., None].expand(-1, -1, d), mask(x, lengths))
        return self.linear(total / level.count[..., None].to(x.dtype))


class Up(nn.Module):
    """Each frame as it was before `Down`, plus a linear map of its group, which begins at zero."""

    def __init__(self, d: int):
        super().__init__()
        self.project = nn.Linear(d, d)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, skip: Tensor, level: Level) -> Tensor:
        """x (b, t', d), skip (b, t, d) -> (b, t, d)."""
        return skip + take_time(self.project(mask(x, level.lengths)), level.group)


def depths(rates: tuple[int, ...], layers: int) -> list[int]:
    """Return how often each layer's frame rate is halved.  UserError for rates that do not fit the layers."""
    if rates and len(rates) != layers:
        raise UserError(f"model.rates has {len(rates)} factors, the encoder {layers} layers: give one for each layer")
    wrong = [rate for rate in rates if rate < 1 or rate & (rate - 1)]
    if wrong:
        raise UserError(f"model.rates={list(rates)}: {wrong[0]} is no power of 2: give 1, 2, 4 or 8 for each layer")
    return [rate.bit_length() - 1 for rate in rates] or [0] * layers
