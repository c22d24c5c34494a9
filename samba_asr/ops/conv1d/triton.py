"""`block_conv1d` in Triton, and `causal_conv1d` as its case without steps ahead: one launch forward, two backward.

A program processes some channels of some steps of one row.  Each tap is one more load of neighboring steps, which are cached.
Backward recomputes the output before SiLU instead of storing it.  The first launch goes through segments of a row and sums the
gradients of taps and bias in registers, so no two programs add to the same number; torch adds up the segments.  The second
gathers those of the inputs.

Shapes: b batch, t time, d channels, k taps; q steps and some channels per program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from samba_asr.ops.device import on_device
from samba_asr.ops.triton import contiguous, in_step

STEPS = 16  # per program
CHANNELS = 64
SEGMENT = 16  # groups of STEPS that a program of the first backward launch goes through, one after another


@triton.jit
def _row(i_b, lengths, sizes, T, HAS_LENGTHS: tl.constexpr):
    """Return the valid steps of a row, and the steps per block."""
    length = T
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + i_b), T).to(tl.int32)
    return length, tl.maximum(tl.minimum(tl.load(sizes + i_b), T), 1).to(tl.int32)


@triton.jit
def _tap(x, initial, i_b, step, j: tl.constexpr, d, in_d, length, size, T, D_, SX, PAST: tl.constexpr):
    """Load the input of tap j of each step, (q, d) in float32."""
    at = step + j - PAST
    valid = step < length
    seen = valid & (at >= 0)
    if j > PAST:
        seen = valid & (at < tl.minimum(step // size * size + size, length))
    v = tl.load(x + (i_b * T + at)[:, None] * SX + d[None, :], seen[:, None] & in_d[None, :], other=0.0).to(tl.float32)
    if j < PAST:
        before = (valid & (at < 0))[:, None] & in_d[None, :]
        v += tl.load(initial + (i_b * PAST + PAST + at)[:, None] * D_ + d[None, :], before, other=0.0).to(tl.float32)
    return v


@triton.jit
def _convolve(
    x,
    weight,
    bias,
    initial,
    i_b,
    step,
    d,
    in_d,
    length,
    size,
    T,
    D_,
    SX,
    HAS_BIAS: tl.constexpr,
    PAST: tl.constexpr,
    K: tl.constexpr,
    Q: tl.constexpr,
    BD: tl.constexpr,
):
    total = tl.zeros([Q, BD], tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + d, in_d, other=0.0).to(tl.float32)[None, :]
    for j in tl.static_range(K):
        w = tl.load(weight + d * K + j, in_d, other=0.0).to(tl.float32)
        total += w[None, :] * _tap(x, initial, i_b, step, j, d, in_d, length, size, T, D_, SX, PAST)
    return total


@triton.jit
def _forward(
    x,
    weight,
    bias,
    initial,
    lengths,
    sizes,
    y,
    final,
    T,
    D_,
    SX,
    HAS_BIAS: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    SILU: tl.constexpr,
    PAST: tl.constexpr,
    K: tl.constexpr,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BD: tl.constexpr,
):
    i_b = tl.program_id(0).to(tl.int64)
    step, d = tl.program_id(1) * Q + tl.arange(0, Q), tl.program_id(2) * BD + tl.arange(0, BD)
    in_d = d < D_
    length, size = _row(i_b, lengths, sizes, T, HAS_LENGTHS)
    y_ = _convolve(x, weight, bias, initial, i_b, step, d, in_d, length, size, T, D_, SX, HAS_BIAS, PAST, K, Q, BD)
    if SILU:
        y_ = y_ * tl.sigmoid(y_)
    y_ = tl.where((step < length)[:, None], y_, 0.0)
    tl.store(
        y + (i_b * T + step)[:, None] * D_ + d[None, :], y_.to(y.dtype.element_ty), (step < T)[:, None] & in_d[None, :]
    )
    if tl.program_id(1) == 0:  # the new state: the last steps, or the rest of the old state
        p = tl.arange(0, BP)
        at = length - PAST + p
        from_x = ((p < PAST) & (at >= 0))[:, None] & in_d[None, :]
        before = ((p < PAST) & (at < 0))[:, None] & in_d[None, :]
        place = (i_b * PAST + p)[:, None] * D_ + d[None, :]
        old = tl.load(initial + (i_b * PAST + PAST + at)[:, None] * D_ + d[None, :], before, other=0.0)
        new = tl.load(x + (i_b * T + at)[:, None] * SX + d[None, :], from_x, other=0.0)
        tl.store(final + place, old, before)
        tl.store(final + place, new.to(final.dtype.element_ty), from_x)


@triton.jit
def _backward_weight(
    x,
    weight,
    bias,
    initial,
    lengths,
    sizes,
    gy,
    g_before,
    gw,
    T,
    D_,
    SX,
    HAS_BIAS: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    SILU: tl.constexpr,
    PAST: tl.constexpr,
    K: tl.constexpr,
    Q: tl.constexpr,
    SEGMENT: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    i_b = tl.program_id(0).to(tl.int64)
    i_s, segments = tl.program_id(1), tl.num_programs(1)
    d, k = tl.program_id(2) * BD + tl.arange(0, BD), tl.arange(0, BK)
    in_d = d < D_
    length, size = _row(i_b, lengths, sizes, T, HAS_LENGTHS)
    gw_, gb_ = tl.zeros([BK, BD], tl.float32), tl.zeros([BD], tl.float32)
    for i_t in range(i_s * SEGMENT, tl.minimum(i_s * SEGMENT + SEGMENT, tl.cdiv(T, Q))):
        step = i_t * Q + tl.arange(0, Q)
        place = (i_b * T + step)[:, None] * D_ + d[None, :]
        g = tl.load(gy + place, (step < length)[:, None] & in_d[None, :], other=0.0).to(tl.float32)
        if SILU:
            v = _convolve(
                x, weight, bias, initial, i_b, step, d, in_d, length, size, T, D_, SX, HAS_BIAS, PAST, K, Q, BD
            )
            s = tl.sigmoid(v)
            g = g * s * (1 + v * (1 - s))
        if SILU:
            tl.store(g_before + place, g, (step < T)[:, None] & in_d[None, :])
        gb_ += tl.sum(g, 0)
        for j in tl.static_range(K):
            of_tap = tl.sum(g * _tap(x, initial, i_b, step, j, d, in_d, length, size, T, D_, SX, PAST), 0)
            gw_ += tl.where((k == j)[:, None], of_tap[None, :], 0.0)
    gw_ += tl.where((k == K)[:, None], gb_[None, :], 0.0)  # the bias comes after the taps
    place = gw + ((i_b * segments + i_s) * D_ + d)[None, :] * (K + 1) + k[:, None]
    tl.store(place, gw_, (k <= K)[:, None] & in_d[None, :])


@triton.jit
def _backward_input(
    weight,
    lengths,
    sizes,
    g_before,
    g_final,
    gx,
    g_initial,
    T,
    D_,
    HAS_LENGTHS: tl.constexpr,
    PAST: tl.constexpr,
    K: tl.constexpr,
    Q: tl.constexpr,
    BD: tl.constexpr,
):
    i_b = tl.program_id(0).to(tl.int64)
    at, d = (
        tl.program_id(1) * Q + tl.arange(0, Q) - PAST,
        tl.program_id(2) * BD + tl.arange(0, BD),
    )  # starting with the state
    in_d = d < D_
    length, size = _row(i_b, lengths, sizes, T, HAS_LENGTHS)
    g = tl.zeros([Q, BD], tl.float32)
    for j in tl.static_range(K):  # the step whose tap j sees this one
        step = at + PAST - j
        sees = (step >= 0) & (step < length) & (at < length)
        if j > PAST:
            sees = sees & (at < step // size * size + size)
        w = tl.load(weight + d * K + j, in_d, other=0.0).to(tl.float32)
        place = (i_b * T + step)[:, None] * D_ + d[None, :]
        g += w[None, :] * tl.load(g_before + place, sees[:, None] & in_d[None, :], other=0.0).to(tl.float32)
    kept = (at < length) & (at >= length - PAST)
    place = (i_b * PAST + at - (length - PAST))[:, None] * D_ + d[None, :]
    g += tl.load(g_final + place, kept[:, None] & in_d[None, :], other=0.0).to(tl.float32)
    tl.store(gx + (i_b * T + at)[:, None] * D_ + d[None, :], g, ((at >= 0) & (at < T))[:, None] & in_d[None, :])
    tl.store(g_initial + (i_b * PAST + PAST + at)[:, None] * D_ + d[None, :], g, (at < 0)[:, None] & in_d[None, :])


@torch.library.custom_op("samba_asr::block_conv1d_forward", mutates_args=())
def _conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor, lengths: Tensor | None, sizes: Tensor, silu: bool
) -> tuple[Tensor, Tensor]:
    """Return y (b, t, d) and the state (b, past, d)."""
    (b, t, d), past, k = x.shape, initial.shape[1], weight.shape[1]
    y, final = x.new_empty(x.shape), torch.empty_like(initial)
    if b and d:
        with on_device(x):
            _forward[(b, max(1, triton.cdiv(t, STEPS)), triton.cdiv(d, CHANNELS))](
                x,
                weight,
                bias,
                initial,
                lengths,
                sizes,
                y,
                final,
                t,
                d,
                x.stride(1),
                HAS_BIAS=bias is not None,
                HAS_LENGTHS=lengths is not None,
                SILU=silu,
                PAST=past,
                K=k,
                Q=STEPS,
                BP=triton.next_power_of_2(max(1, past)),
                BD=CHANNELS,
            )
    return y, final


@_conv_forward.register_fake
def _(x, weight, bias, initial, lengths, sizes, silu):
    return x.new_empty(x.shape), torch.empty_like(initial)


@torch.library.custom_op("samba_asr::block_conv1d_backward", mutates_args=())
def _conv_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial: Tensor,
    lengths: Tensor | None,
    sizes: Tensor,
    gy: Tensor,
    g_final: Tensor,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of x and initial, in their types, and of weight and bias side by side, (d, k + 1) float32."""
    (b, t, d), past, k = x.shape, initial.shape[1], weight.shape[1]
    segments = max(1, triton.cdiv(t, STEPS * SEGMENT))
    gx, g_initial = x.new_empty(x.shape), torch.empty_like(initial)
    gw = x.new_empty((b, segments, d, k + 1), dtype=torch.float32)
    g_before = x.new_empty(x.shape, dtype=torch.float32) if silu else gy
    if b and d:
        flags = {"HAS_LENGTHS": lengths is not None, "PAST": past, "K": k, "Q": STEPS, "BD": CHANNELS}
        with on_device(x):
            _backward_weight[(b, segments, triton.cdiv(d, CHANNELS))](
                x,
                weight,
                bias,
                initial,
                lengths,
                sizes,
                gy,
                g_before,
                gw,
                t,
                d,
                x.stride(1),
                HAS_BIAS=bias is not None,
                SILU=silu,
                SEGMENT=SEGMENT,
                BK=triton.next_power_of_2(k + 1),
                **flags,
            )
            _backward_input[(b, triton.cdiv(past + t, STEPS), triton.cdiv(d, CHANNELS))](
                weight, lengths, sizes, g_before, g_final, gx, g_initial, t, d, **flags
            )
    return gx, g_initial, gw.sum((0, 1))


@_conv_backward.register_fake
def _(x, weight, bias, initial, lengths, sizes, gy, g_final, silu):
    d, k = weight.shape
    return x.new_empty(x.shape), torch.empty_like(initial), x.new_empty((d, k + 1), dtype=torch.float32)


def _setup(ctx, inputs, output):
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, gy, g_final):
    _, weight, bias, *_ = ctx.saved_tensors
    gx, g_initial, gw = _conv_backward(*ctx.saved_tensors, gy.contiguous(), g_final.contiguous(), ctx.silu)
    gb = None if bias is None else gw[:, -1].to(bias.dtype)
    return gx, gw[:, :-1].to(weight.dtype), gb, g_initial, None, None, None


_conv_forward.register_autograd(_gradients, setup_context=_setup)


def block_conv1d_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    initial_state: Tensor,
    lengths: Tensor | None,
    sizes: Tensor,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """See `samba_asr.ops.conv1d.block_conv1d` for the contract.  float32 inside; not for float64."""
    return _conv_forward(in_step(x, 1), *contiguous(weight, bias, initial_state, lengths, sizes), silu)
