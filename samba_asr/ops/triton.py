"""What the Triton kernels of all ops share: where a row lies, padded with others or end to end with them.

Shapes: b rows, t time, c chunks of q steps.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def locate(i_b, lengths, offsets, T, Q: tl.constexpr, HAS_LENGTHS: tl.constexpr, HAS_OFFSETS: tl.constexpr):
    """Of row i_b: its first step among all, the steps it has room for, those that are valid, its first slot for a state.

    A row wants a slot for the state that enters each of its chunks.  End to end, the rows before it have begun no more than
    (their steps) / q + 1 chunks each, so that slots can be handed out without knowing all lengths on the host.
    """
    begin = i_b.to(tl.int64) * T
    room = T
    slot = i_b.to(tl.int64) * tl.cdiv(T, Q)
    if HAS_OFFSETS:
        begin = tl.load(offsets + i_b).to(tl.int64)
        room = (tl.load(offsets + i_b + 1) - begin).to(tl.int32)
        slot = begin // Q + i_b
    length = room
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + i_b).to(tl.int32), room)
    return begin, room, length, slot


def count_rows(x: Tensor, offsets: Tensor | None) -> int:
    return x.shape[0] if offsets is None else offsets.shape[0] - 1


def count_slots(x: Tensor, offsets: Tensor | None, chunk: int) -> int:
    """How many states of chunks x (b, t, ...) wants, at most."""
    b, t = x.shape[:2]
    return b * -(-t // chunk) if offsets is None else t // chunk + offsets.shape[0] - 1


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if v is None else v.contiguous() for v in tensors]


def in_step(v: Tensor, tail: int) -> Tensor:
    """v (b, t, ...), a copy unless the last `tail` dimensions are packed and all b t steps lie at one distance."""
    packed = v.shape[0] == 1 or v.stride(0) == v.shape[1] * v.stride(1)
    wanted = 1
    for size, stride in zip(v.shape[: -tail - 1 : -1], v.stride()[: -tail - 1 : -1], strict=True):
        packed = packed and (size == 1 or stride == wanted)
        wanted *= size
    return v if packed else v.contiguous()
