"""The scans and the gate of a mixer's training step; see samba_asr.ops.flat.

Shapes: b rows of t steps, n = b t; h heads of p channels, a power of two, d = h p; s state.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from samba_asr.ops.device import on_device
from samba_asr.ops.quasiseparable import triton as quasiseparable
from samba_asr.ops.ssd import triton as ssd

STEPS, COLUMNS = 16, 64  # per program of `_gather`


class Raw(NamedTuple):
    """Inputs of both scans."""

    x: Tensor  # (n, h p), of both directions
    dt: Tensor  # (n, 2 h), before the bias and softplus; forward, backward
    B: Tensor  # (n, s ...): the forward direction's B, with the backward direction's 2 s columns further on
    C: Tensor  # (n, s ...), likewise; only the last dimension of all four need be dense
    dt_bias: Tensor  # (h,)
    A_log: Tensor  # (h,)


@triton.jit
def _gather(gx, gB, gC, gu, ROWS, D_, H, N, SGU, Q: tl.constexpr, BD: tl.constexpr):
    """Add what both directions say of x (first D_ columns of gu), and what all heads say of B and C (the 4 N after them)."""
    row = (tl.program_id(0) * Q + tl.arange(0, Q)).to(tl.int64)[:, None]
    c = tl.program_id(1) * BD + tl.arange(0, BD)[None, :]
    inside, m = row < ROWS, c - D_
    of_x, of_maps = inside & (c < D_), inside & (m >= 0) & (m < 4 * N)
    place = gu + row * SGU + c
    total = tl.load(place, of_x, other=0.0).to(tl.float32)
    total += tl.load(gx + row * D_ + c, of_x, other=0.0).to(tl.float32)
    total += tl.load(gx + (ROWS + row) * D_ + c, of_x, other=0.0).to(tl.float32)
    way, kind = m // (2 * N), m // N % 2  # of B, C forward, B, C backward
    for h in range(H):
        at = ((row * 2 + way) * H + h) * N + m % N
        total += tl.load(gB + at, of_maps & (kind == 0), other=0.0) + tl.load(gC + at, of_maps & (kind == 1), other=0.0)
    tl.store(place, total, of_x | of_maps)


def scan(raw: Raw, b: int, p: int, s: int, lengths: Tensor | None, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Return y (2, n, h p) of both directions, in forward order of time, and the states that backward needs."""
    x, h = raw.x, len(raw.A_log)
    t = len(x) // b
    y = x.new_empty(2, *x.shape)
    states = x.new_empty(2 * b * -(-t // ssd.chunk(t)), h, p, s, dtype=torch.float32)
    with on_device(x):
        ssd._forward[(2 * b * h,)](
            x,
            raw.dt,
            raw.dt_bias,
            raw.A_log,
            raw.B,
            raw.C,
            None,
            lengths,
            None,
            None,
            sizes,
            y,
            None,
            states,
            *_sizes_of_scan(raw, b, t, p, s),
            HAS_INITIAL=False,
            **_flags_of_scan(x, t, p, s, lengths),
        )
    return y, states


def scan_backward(
    raw: Raw,
    b: int,
    p: int,
    s: int,
    lengths: Tensor | None,
    sizes: Tensor,
    states: Tensor,
    gy: Tensor,
    g_dt: Tensor,
    gu: Tensor,
) -> tuple[Tensor, Tensor]:
    """Add the gradient of x to the first h p columns of gu (n, h p + 4 s); write those of B, C forward, B, C backward after them.

    gy: (2, n, h p).  g_dt: (n, 2 h), where the gradient of dt goes.  Return those of A_log and dt_bias (h,), float32.
    """
    x, h = raw.x, len(raw.A_log)
    n, t = len(x), len(x) // b
    gx = x.new_empty(2, *x.shape)
    gB, gC = (x.new_empty((n, 2, h, s), dtype=torch.float32) for _ in range(2))
    found = x.new_empty((2, 2 * b, h), dtype=torch.float32)
    with on_device(x):
        ssd._backward[(2 * b * h,)](
            x,
            raw.dt,
            raw.dt_bias,
            raw.A_log,
            raw.B,
            raw.C,
            lengths,
            None,
            None,
            sizes,
            states,
            gy,
            None,
            gx,
            g_dt,
            found,
            gB,
            gC,
            None,
            *_sizes_of_scan(raw, b, t, p, s),
            g_dt.stride(0),
            **_flags_of_scan(x, t, p, s, lengths),
        )
        width = h * p + 4 * s
        _gather[(triton.cdiv(n, STEPS), triton.cdiv(width, COLUMNS))](
            gx, gB, gC, gu, n, h * p, h, s, gu.stride(0), Q=STEPS, BD=COLUMNS
        )
    g_A, g_bias = found.sum(1).unbind(0)
    return g_A, g_bias


def _sizes_of_scan(raw: Raw, b: int, t: int, p: int, s: int) -> tuple[int, ...]:
    """Sizes, strides between steps, and strides between directions of x, A, dt, B, C."""
    h = len(raw.A_log)
    strides = [v.stride(0) for v in (raw.x, raw.dt, raw.B, raw.C)]
    return (b, t, h, 1, p, s, *strides, 0, 0, h, 2 * s, 2 * s)


def _flags_of_scan(x: Tensor, t: int, p: int, s: int, lengths: Tensor | None) -> dict:
    return {
        **{"RAW": True, "HAS_FINAL": False, "HAS_LENGTHS": lengths is not None, "HAS_OFFSETS": False},
        **{"HAS_RESET": False, "HAS_BLOCKS": True, "PRECISION": ssd.precision(x), "Q": ssd.chunk(t)},
        **{"BP": ssd.tile(p), "BN": ssd.tile(s), "num_warps": ssd.WARPS},
    }


# ---- the gate --------------------------------------------------------------------------------------------------------


class Joined(NamedTuple):
    """Inputs of the join; only the last dimension of x and z need be dense."""

    forward: Tensor  # (n, d)
    backward: Tensor  # (n, d)
    x: Tensor  # (n, d)
    skip: Tensor  # (n, h)
    D: Tensor  # (h,)
    z: Tensor  # (n, d)
    weight: Tensor  # (d,) of the norm


def join(given: Joined, b: int, lengths: Tensor | None, sizes: Tensor, eps: float) -> Tensor:
    """Return y (n, d), zeros after the valid steps."""
    n, d = given.x.shape
    y = given.x.new_empty((n, d))
    with on_device(y):
        quasiseparable._forward[(b, triton.cdiv(n // b, quasiseparable.STEPS))](
            given.forward,
            given.backward,
            None,
            *given[2:],
            lengths,
            sizes,
            y,
            *_numbers(given, b),
            eps,
            Q=quasiseparable.STEPS,
            **_flags(d, lengths),
        )
    return y


def join_backward(
    given: Joined, b: int, lengths: Tensor | None, sizes: Tensor, eps: float, gy: Tensor, gx: Tensor, gz: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Write the gradients of x and z into gx and gz (n, d), of which only the last dimension need be dense.

    Return those of the two directions (2, n, d) and of skip (n, h), in their types, and of weight (d,), float32.
    """
    (n, d), h = given.x.shape, given.skip.shape[1]
    programs = triton.cdiv(n // b, quasiseparable.STEPS_BACK)
    of_ways, g_skip = given.forward.new_empty((2, n, d)), torch.empty_like(given.skip)
    gw = gx.new_empty((b * programs, d), dtype=torch.float32)
    with on_device(gx):
        quasiseparable._backward[(b, programs)](
            given.forward,
            given.backward,
            None,
            *given[2:],
            lengths,
            sizes,
            gy,
            *of_ways.unbind(0),
            None,
            gx,
            g_skip,
            gz,
            gw,
            *_numbers(given, b),
            gx.stride(0),
            gz.stride(0),
            eps,
            HEAD=d // h,
            Q=quasiseparable.STEPS_BACK,
            **_flags(d, lengths),
        )
    return of_ways, g_skip, gw.sum(0)


def _numbers(given: Joined, b: int) -> tuple[int, ...]:
    (n, d), h = given.x.shape, given.skip.shape[1]
    return (n // b, d, h, d // h, given.x.stride(0), given.z.stride(0))


def _flags(d: int, lengths: Tensor | None) -> dict:
    return {"HAS_LENGTHS": lengths is not None, "HAS_LAST": False, "HAS_D": True, "BD": triton.next_power_of_2(d)}
