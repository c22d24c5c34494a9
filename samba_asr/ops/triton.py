"""Functions that the Triton kernels of all ops share: addresses of padded and of packed rows.

Shapes: b rows, t time, c chunks of q steps.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl
from torch import Tensor

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # as in all versions so far: 3.9 warns where nobody says it


@triton.jit
def locate(i_b, lengths, offsets, T, Q: tl.constexpr, HAS_LENGTHS: tl.constexpr, HAS_OFFSETS: tl.constexpr):
    """Return, for row i_b: its first step among all, its allocated steps, its valid steps, and its first state slot.

    A row needs one slot per chunk, for the state that enters it.  Each packed row before it has begun at most
    (its steps) / q + 1 chunks, so slots are assigned without knowing all lengths on the host.
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


@triton.jit
def only_if(mask, condition):
    """Return the mask where a scalar condition holds, else none of it.

    `mask & condition` compiles too, but what the interpreter of triton 3.9 makes of it is int32, which it then refuses as a mask.
    """
    return (mask.to(tl.int32) & tl.where(condition, 1, 0)) != 0


def count_rows(x: Tensor, offsets: Tensor | None) -> int:
    return x.shape[0] if offsets is None else offsets.shape[0] - 1


def count_slots(x: Tensor, offsets: Tensor | None, chunk: int) -> int:
    """Return an upper bound on the number of chunk states of x (b, t, ...)."""
    b, t = x.shape[:2]
    return b * -(-t // chunk) if offsets is None else t // chunk + offsets.shape[0] - 1


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if v is None else v.contiguous() for v in tensors]


def in_step(v: Tensor, tail: int) -> Tensor:
    """Return v (b, t, ...), copied unless the last `tail` dimensions are dense and all b t steps have one stride."""
    packed = v.shape[0] == 1 or v.stride(0) == v.shape[1] * v.stride(1)
    wanted = 1
    for size, stride in zip(v.shape[: -tail - 1 : -1], v.stride()[: -tail - 1 : -1], strict=True):
        packed = packed and (size == 1 or stride == wanted)
        wanted *= size
    return v if packed else v.contiguous()
