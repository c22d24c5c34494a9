"""`block_conv1d` in Triton, and `causal_conv1d` as its case without steps ahead: one launch forward, one or two backward.

A program processes some channels of some steps of one row.  Each tap is one more load of neighboring steps, which are cached.
Backward gathers the gradients of inputs from the steps that saw them.  The same loads give the gradients of taps and bias, which
each program sums over its inputs: no two programs add to the same number, and torch adds up the sums.  With SiLU a launch before
it recomputes the output before SiLU instead of storing it.

Shapes: b batch, t time, d channels, k taps; q steps and some channels per program.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from samba_asr.ops.device import on_device
from samba_asr.ops.triton import contiguous, in_step

STEPS, CHANNELS = 16, 64  # per program
STEPS_BACK, CHANNELS_BACK = 32, 32  # of inputs: 92 registers (sm_90); with 64 steps, half of the sums to add, but 196


@triton.jit
def _row(i_b, lengths, sizes, T, HAS_LENGTHS: tl.constexpr):
    """Return the valid steps of a row, and the steps per block."""
    length = T
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + i_b), T).to(tl.int32)
    return length, tl.maximum(tl.minimum(tl.load(sizes + i_b), T), 1).to(tl.int32)


@triton.jit
def _tap(
    x,
    initial,
    i_b,
    step,
    j: tl.constexpr,
    d,
    in_d,
    length,
    size,
    T,
    D_,
    SX,
    HAS_STATE: tl.constexpr,
    PAST: tl.constexpr,
):
    """Load the input of tap j of each step, (q, d) in float32."""
    at = step + j - PAST
    valid = step < length
    seen = valid & (at >= 0)
    if j > PAST:
        seen = valid & (at < tl.minimum(step // size * size + size, length))
    v = tl.load(x + (i_b * T + at)[:, None] * SX + d[None, :], seen[:, None] & in_d[None, :], other=0.0).to(tl.float32)
    if HAS_STATE and j < PAST:
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
    HAS_STATE: tl.constexpr,
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
        total += w[None, :] * _tap(x, initial, i_b, step, j, d, in_d, length, size, T, D_, SX, HAS_STATE, PAST)
    return total


@triton.jit
def _forward(
    x,
    weight,
    bias,
    initial,
    final,
    lengths,
    sizes,
    y,
    T,
    D_,
    SX,
    HAS_BIAS: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_STATE: tl.constexpr,
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
    y_ = _convolve(
        x, weight, bias, initial, i_b, step, d, in_d, length, size, T, D_, SX, HAS_BIAS, HAS_STATE, PAST, K, Q, BD
    )
    if SILU:
        y_ = y_ * tl.sigmoid(y_)
    y_ = tl.where((step < length)[:, None], y_, 0.0)
    tl.store(
        y + (i_b * T + step)[:, None] * D_ + d[None, :], y_.to(y.dtype.element_ty), (step < T)[:, None] & in_d[None, :]
    )
    if HAS_STATE and tl.program_id(1) == 0:  # the new state: the last steps, or the rest of the old state
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
def _before_silu(
    x,
    weight,
    bias,
    initial,
    lengths,
    sizes,
    gy,
    g,
    T,
    D_,
    SX,
    HAS_BIAS: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_STATE: tl.constexpr,
    PAST: tl.constexpr,
    K: tl.constexpr,
    Q: tl.constexpr,
    BD: tl.constexpr,
):
    """From the gradient of the output to that before SiLU."""
    i_b = tl.program_id(0).to(tl.int64)
    step, d = tl.program_id(1) * Q + tl.arange(0, Q), tl.program_id(2) * BD + tl.arange(0, BD)
    in_d = d < D_
    length, size = _row(i_b, lengths, sizes, T, HAS_LENGTHS)
    place = (i_b * T + step)[:, None] * D_ + d[None, :]
    valid = (step < length)[:, None] & in_d[None, :]
    v = _convolve(
        x, weight, bias, initial, i_b, step, d, in_d, length, size, T, D_, SX, HAS_BIAS, HAS_STATE, PAST, K, Q, BD
    )
    s = tl.sigmoid(v)
    g_ = tl.load(gy + place, valid, other=0.0).to(tl.float32) * s * (1 + v * (1 - s))
    tl.store(g + place, g_, valid)


@triton.jit
def _backward(
    x,
    weight,
    initial,
    lengths,
    sizes,
    g,
    g_final,
    gx,
    g_initial,
    gw,
    gb,
    T,
    D_,
    SX,
    SGX,
    HAS_LENGTHS: tl.constexpr,
    HAS_STATE: tl.constexpr,
    PAST: tl.constexpr,
    K: tl.constexpr,
    Q: tl.constexpr,
    BD: tl.constexpr,
):
    """Gradients of inputs, and of taps and bias summed over the inputs of this program.

    One load of `g` serves both: an input, times the gradient of the step whose tap j sees it, is a share of that tap's gradient.
    """
    i_b = tl.program_id(0).to(tl.int64)
    at, d = tl.program_id(1) * Q + tl.arange(0, Q), tl.program_id(2) * BD + tl.arange(0, BD)
    if HAS_STATE:
        at -= PAST  # starting with the state
    in_d = d < D_
    length, size = _row(i_b, lengths, sizes, T, HAS_LENGTHS)
    of_x = ((at >= 0) & (at < length))[:, None] & in_d[None, :]
    x_ = tl.load(x + (i_b * T + at)[:, None] * SX + d[None, :], of_x, other=0.0).to(tl.float32)
    if HAS_STATE:
        before = (i_b * PAST + PAST + at)[:, None] * D_ + d[None, :]
        x_ += tl.load(initial + before, (at < 0)[:, None] & in_d[None, :], other=0.0).to(tl.float32)
    first = at // size * size  # of its block
    total = tl.zeros([Q, BD], tl.float32)
    share = (i_b * tl.num_programs(1) + tl.program_id(1)) * D_ + d
    for j in range(K):  # the step whose tap j sees this one; a loop, because unrolled it spills registers
        step = at + PAST - j
        sees = (step >= 0) & (step < length) & (at < length) & (step >= tl.where(j > PAST, first, 0))
        g_ = tl.load(g + (i_b * T + step)[:, None] * D_ + d[None, :], sees[:, None] & in_d[None, :], other=0.0)
        g_ = g_.to(tl.float32)
        total += tl.load(weight + d * K + j, in_d, other=0.0).to(tl.float32)[None, :] * g_
        tl.store(gw + share * K + j, tl.sum(g_ * x_, 0), in_d)
        if j == PAST:
            tl.store(gb + share, tl.sum(g_, 0), in_d)
    if HAS_STATE:
        kept = (at < length) & (at >= length - PAST)
        place = (i_b * PAST + at - (length - PAST))[:, None] * D_ + d[None, :]
        total += tl.load(g_final + place, kept[:, None] & in_d[None, :], other=0.0).to(tl.float32)
        tl.store(g_initial + before, total, (at < 0)[:, None] & in_d[None, :])
    tl.store(gx + (i_b * T + at)[:, None] * SGX + d[None, :], total, ((at >= 0) & (at < T))[:, None] & in_d[None, :])


class Shape(NamedTuple):
    """Of a convolution's input."""

    b: int
    t: int
    d: int
    past: int
    k: int


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: tuple[Tensor, Tensor] | None,
    lengths: Tensor | None,
    sizes: Tensor,
    y: Tensor,
    shape: Shape,
    *,
    silu: bool,
) -> None:
    """Launch the forward kernel, which writes y (b, t, d) or (b t, d).  Only the last dimension of x need be dense.

    weight: (d, k), or (d, 1, k) as of torch's convolution.  state: the state before x, and memory for that after it; None: zeros
    before x, and nobody asks for what comes after.
    """
    b, t, d, past, k = shape
    if not (b and d):
        return
    with on_device(x):
        _forward[(b, max(1, triton.cdiv(t, STEPS)), triton.cdiv(d, CHANNELS))](
            x,
            weight,
            bias,
            *(state or (None, None)),
            lengths,
            sizes,
            y,
            t,
            d,
            x.stride(-2),
            HAS_BIAS=bias is not None,
            HAS_LENGTHS=lengths is not None,
            HAS_STATE=state is not None,
            SILU=silu,
            PAST=past,
            K=k,
            Q=STEPS,
            BP=triton.next_power_of_2(max(1, past)),
            BD=CHANNELS,
        )


def convolve_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: tuple[Tensor, Tensor, Tensor] | None,
    lengths: Tensor | None,
    sizes: Tensor,
    gy: Tensor,
    gx: Tensor,
    shape: Shape,
    *,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """Write the gradient of x into gx; only the last dimension of both need be dense.  gy: (b, t, d) or (b t, d).

    state: the state before x, the gradient of that after it, and memory for that of the first; None: as for `convolve`.
    Return the gradients of weight, in its shape, and bias (d,), float32.
    """
    b, t, d, past, k = shape
    initial, g_final, g_initial = state or (None, None, None)
    inputs = t if state is None else past + t
    programs = triton.cdiv(inputs, STEPS_BACK) if d else 0
    gw = x.new_empty((b * programs, *weight.shape), dtype=torch.float32)
    gb = x.new_empty((b * programs, d), dtype=torch.float32)
    flags = {"HAS_LENGTHS": lengths is not None, "HAS_STATE": state is not None, "PAST": past, "K": k}
    if b and programs:
        with on_device(x):
            g = gy
            if silu:
                g = gy.new_empty(gy.shape, dtype=torch.float32)
                _before_silu[(b, max(1, triton.cdiv(t, STEPS)), triton.cdiv(d, CHANNELS))](
                    x,
                    weight,
                    bias,
                    initial,
                    lengths,
                    sizes,
                    gy,
                    g,
                    t,
                    d,
                    x.stride(-2),
                    HAS_BIAS=bias is not None,
                    Q=STEPS,
                    BD=CHANNELS,
                    **flags,
                )
            _backward[(b, programs, triton.cdiv(d, CHANNELS_BACK))](
                x,
                weight,
                initial,
                lengths,
                sizes,
                g,
                g_final,
                gx,
                g_initial,
                gw,
                gb,
                t,
                d,
                x.stride(-2),
                gx.stride(-2),
                Q=STEPS_BACK,
                BD=CHANNELS_BACK,
                **flags,
            )
    return gw.sum(0), gb.sum(0)


@torch.library.custom_op("samba_asr::block_conv1d_forward", mutates_args=())
def _conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial: Tensor, lengths: Tensor | None, sizes: Tensor, silu: bool
) -> tuple[Tensor, Tensor]:
    """Return y (b, t, d) and the state (b, past, d)."""
    y, final = x.new_empty(x.shape), torch.empty_like(initial)
    shape = Shape(*x.shape, initial.shape[1], weight.shape[1])
    convolve(x, weight, bias, (initial, final), lengths, sizes, y, shape, silu=silu)
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return gradients of x and initial, in their types, and of weight (d, k) and bias (d,), float32."""
    gx, g_initial = x.new_empty(x.shape), torch.empty_like(initial)
    state, shape = (initial, g_final, g_initial), Shape(*x.shape, initial.shape[1], weight.shape[1])
    found = convolve_backward(x, weight, bias, state, lengths, sizes, gy, gx, shape, silu=silu)
    return gx, g_initial, *found


@_conv_backward.register_fake
def _(x, weight, bias, initial, lengths, sizes, gy, g_final, silu):
    wide = [x.new_empty(shape, dtype=torch.float32) for shape in (weight.shape, weight.shape[:1])]
    return x.new_empty(x.shape), torch.empty_like(initial), *wide


def _setup(ctx, inputs, output):
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, gy, g_final):
    _, weight, bias, *_ = ctx.saved_tensors
    gx, g_initial, gw, gb = _conv_backward(*ctx.saved_tensors, gy.contiguous(), g_final.contiguous(), ctx.silu)
    return gx, gw.to(weight.dtype), None if bias is None else gb.to(bias.dtype), g_initial, None, None, None


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
