"""`join_and_gate` in Triton: one launch forward, one backward.

A program processes some steps of one row in order, all channels at once.  Backward recomputes v and the norm instead of
storing them.  It passes the gradient of v to the neighboring steps, and sums the gradient of the weight over its own steps,
so no two programs add to the same number.

Shapes: b batch, t time, d channels, h heads of p channels; q steps of one program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from samba_asr.ops.device import on_device
from samba_asr.ops.triton import contiguous, in_step, only_if

STEPS = 4  # steps per program, forward
STEPS_BACK = 16  # steps per program, backward, which writes one gradient of the weight per program


@triton.jit
def _joined(
    forward,
    backward,
    last,
    x,
    skip,
    D,
    z,
    i_b,
    step,
    d,
    in_d,
    end,
    T,
    D_,
    H,
    P,
    SX,
    SZ,
    HAS_LAST: tl.constexpr,
    HAS_D: tl.constexpr,
    BD: tl.constexpr,
):
    """Load one step: v, x, its skip and z, (d,) in float32."""
    row = i_b * T + step
    v = tl.zeros([BD], tl.float32)
    if HAS_LAST:
        v += tl.load(last + i_b * D_ + d, only_if(in_d, step == 0), other=0.0).to(tl.float32)
    v += tl.load(forward + (row - 1) * D_ + d, only_if(in_d, step > 0), other=0.0).to(tl.float32)
    v += tl.load(backward + (row + 1) * D_ + d, only_if(in_d, step + 1 < end), other=0.0).to(tl.float32)
    x_ = tl.load(x + row * SX + d, in_d, other=0.0).to(tl.float32)
    skip_ = tl.load(skip + row * H + d // P, in_d, other=0.0).to(tl.float32)
    if HAS_D:
        skip_ += tl.load(D + d // P, in_d, other=0.0).to(tl.float32)
    z_ = tl.load(z + row * SZ + d, in_d, other=0.0).to(tl.float32)
    return v + x_ * skip_, x_, skip_, z_


@triton.jit
def _ends(i_b, step, lengths, sizes, T, HAS_LENGTHS: tl.constexpr):
    """Return the valid steps of a row, and the start and end of this step's block."""
    length = T
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + i_b), T).to(tl.int32)
    size = tl.minimum(tl.load(sizes + i_b), T).to(tl.int32)
    begin = step // size * size
    return length, begin, tl.minimum(begin + size, length)


@triton.jit
def _forward(
    forward,
    backward,
    last,
    x,
    skip,
    D,
    z,
    weight,
    lengths,
    sizes,
    y,
    T,
    D_,
    H,
    P,
    SX,
    SZ,
    EPS,
    HAS_LENGTHS: tl.constexpr,
    HAS_LAST: tl.constexpr,
    HAS_D: tl.constexpr,
    Q: tl.constexpr,
    BD: tl.constexpr,
):
    i_b, d = tl.program_id(0).to(tl.int64), tl.arange(0, BD)
    in_d = d < D_
    weight_ = tl.load(weight + d, in_d, other=0.0).to(tl.float32)
    for step in range(tl.program_id(1) * Q, tl.minimum(tl.program_id(1) * Q + Q, T)):
        length, _begin, end = _ends(i_b, step, lengths, sizes, T, HAS_LENGTHS)
        y_ = tl.zeros([BD], tl.float32)
        if step < length:
            v, _x, _skip, z_ = _joined(
                forward, backward, last, x, skip, D, z, i_b, step, d, in_d, end, T, D_, H, P, SX, SZ, HAS_LAST, HAS_D, BD
            )  # fmt: skip
            y_ = v * z_ * tl.sigmoid(z_)
            y_ = y_ * weight_ / tl.sqrt(tl.sum(y_ * y_, 0) / D_ + EPS)
        tl.store(y + (i_b * T + step) * D_ + d, y_.to(y.dtype.element_ty), in_d)


@triton.jit
def _backward(
    forward,
    backward,
    last,
    x,
    skip,
    D,
    z,
    weight,
    lengths,
    sizes,
    gy,
    g_forward,
    g_backward,
    g_last,
    gx,
    g_skip,
    gz,
    gw,
    T,
    D_,
    H,
    P,
    SX,
    SZ,
    SGX,
    SGZ,
    EPS,
    HAS_LENGTHS: tl.constexpr,
    HAS_LAST: tl.constexpr,
    HAS_D: tl.constexpr,
    HEAD: tl.constexpr,
    Q: tl.constexpr,
    BD: tl.constexpr,
):
    i_b, d = tl.program_id(0).to(tl.int64), tl.arange(0, BD)
    in_d = d < D_
    weight_ = tl.load(weight + d, in_d, other=0.0).to(tl.float32)
    gw_, zero = tl.zeros([BD], tl.float32), tl.zeros([BD], tl.float32)
    for step in range(tl.program_id(1) * Q, tl.minimum(tl.program_id(1) * Q + Q, T)):
        length, begin, end = _ends(i_b, step, lengths, sizes, T, HAS_LENGTHS)
        row = i_b * T + step
        gv, gx_, gz_, g_skip_ = zero, zero, zero, zero
        if step < length:
            v, x_, skip_, z_ = _joined(
                forward, backward, last, x, skip, D, z, i_b, step, d, in_d, end, T, D_, H, P, SX, SZ, HAS_LAST, HAS_D, BD
            )  # fmt: skip
            gate = tl.sigmoid(z_)
            u = v * z_ * gate
            g = tl.load(gy + row * D_ + d, in_d, other=0.0).to(tl.float32)
            scale = 1 / tl.sqrt(tl.sum(u * u, 0) / D_ + EPS)
            gw_ += g * u * scale
            g = g * weight_
            gu = scale * (g - u * (scale * scale * tl.sum(g * u, 0) / D_))
            gv = gu * z_ * gate
            gz_ = gu * v * gate * (1 + z_ * (1 - gate))
            gx_, g_skip_ = gv * skip_, gv * x_
        # Gradients of the neighbors that each step read.  A neighbor that no step reads gets a zero from its own step.
        tl.store(g_forward + (row - 1) * D_ + d, gv, only_if(in_d, step > 0))
        if HAS_LAST:
            tl.store(g_last + i_b * D_ + d, gv, only_if(in_d, step == 0))
        tl.store(g_forward + row * D_ + d, zero, only_if(in_d, step == T - 1))
        tl.store(g_backward + (row + 1) * D_ + d, gv, only_if(in_d, step + 1 < end))
        tl.store(g_backward + row * D_ + d, zero, only_if(in_d, (step == begin) | (step >= length)))
        tl.store(gx + row * SGX + d, gx_, in_d)
        tl.store(gz + row * SGZ + d, gz_, in_d)
        if HEAD:  # channels of a head, a power of two: their sum is the gradient
            h = tl.arange(0, BD // HEAD)
            tl.store(g_skip + row * H + h, tl.sum(tl.reshape(g_skip_, [BD // HEAD, HEAD]), 1), h < H)
        else:
            tl.store(g_skip + row * D_ + d, g_skip_, in_d)
    tl.store(gw + (i_b * tl.num_programs(1) + tl.program_id(1)) * D_ + d, gw_, in_d)


@torch.library.custom_op("samba_asr::join_and_gate_forward", mutates_args=())
def _join_forward(
    forward: Tensor,
    backward: Tensor,
    last: Tensor,
    x: Tensor,
    skip: Tensor,
    z: Tensor,
    weight: Tensor,
    lengths: Tensor | None,
    sizes: Tensor,
    eps: float,
) -> Tensor:
    (b, t, d), h = x.shape, skip.shape[2]
    y = x.new_empty(x.shape)
    if y.numel():
        with on_device(x):
            _forward[(b, triton.cdiv(t, STEPS))](
                forward,
                backward,
                last,
                x,
                skip,
                None,
                z,
                weight,
                lengths,
                sizes,
                y,
                t,
                d,
                h,
                d // h,
                x.stride(1),
                z.stride(1),
                eps,
                HAS_LENGTHS=lengths is not None,
                HAS_LAST=True,
                HAS_D=False,
                Q=STEPS,
                BD=triton.next_power_of_2(d),
            )
    return y


@_join_forward.register_fake
def _(forward, backward, last, x, skip, z, weight, lengths, sizes, eps):
    return x.new_empty(x.shape)


@torch.library.custom_op("samba_asr::join_and_gate_backward", mutates_args=())
def _join_backward(
    forward: Tensor,
    backward: Tensor,
    last: Tensor,
    x: Tensor,
    skip: Tensor,
    z: Tensor,
    weight: Tensor,
    lengths: Tensor | None,
    sizes: Tensor,
    gy: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return gradients of all tensors in order, those of skip and weight in float32, the others in their types."""
    (b, t, d), h = x.shape, skip.shape[2]
    programs = triton.cdiv(t, STEPS_BACK)
    g_forward, g_backward, gx, gz = (v.new_empty(b, t, d) for v in (forward, backward, x, z))
    g_skip, gw = (x.new_empty(shape, dtype=torch.float32) for shape in ((b, t, d), (b, programs, d)))
    g_last = last.new_zeros(b, 1, d)
    if x.numel():
        with on_device(x):
            _backward[(b, programs)](
                forward,
                backward,
                last,
                x,
                skip,
                None,
                z,
                weight,
                lengths,
                sizes,
                gy,
                g_forward,
                g_backward,
                g_last,
                gx,
                g_skip,
                gz,
                gw,
                t,
                d,
                h,
                d // h,
                x.stride(1),
                z.stride(1),
                gx.stride(1),
                gz.stride(1),
                eps,
                HAS_LENGTHS=lengths is not None,
                HAS_LAST=True,
                HAS_D=False,
                HEAD=0,
                Q=STEPS_BACK,
                BD=triton.next_power_of_2(d),
            )
    return g_forward, g_backward, g_last, gx, g_skip.unflatten(2, (h, -1)).sum(3), gz, gw.sum((0, 1))


@_join_backward.register_fake
def _(forward, backward, last, x, skip, z, weight, lengths, sizes, gy, eps):
    wide = [v.new_empty(v.shape, dtype=torch.float32) for v in (skip, weight)]
    g_forward, g_backward, g_last, gx, gz = (v.new_empty(v.shape) for v in (forward, backward, last, x, z))
    return g_forward, g_backward, g_last, gx, wide[0], gz, wide[1]


def _setup(ctx, inputs, output):
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, gy):
    found = _join_backward(*ctx.saved_tensors, gy.contiguous(), ctx.eps)
    return *(g.to(v.dtype) for g, v in zip(found, ctx.saved_tensors, strict=False)), None, None, None


_join_forward.register_autograd(_gradients, setup_context=_setup)


def join_and_gate_triton(
    forward: Tensor,
    backward: Tensor,
    last: Tensor,
    x: Tensor,
    skip: Tensor,
    z: Tensor,
    weight: Tensor,
    lengths: Tensor | None,
    sizes: Tensor,
    eps: float,
) -> Tensor:
    """See `samba_asr.ops.quasiseparable.join_and_gate` for the contract.  float32 inside; not for float64."""
    forward, backward, last, skip, weight, lengths, sizes = contiguous(
        forward, backward, last, skip, weight, lengths, sizes
    )
    return _join_forward(forward, backward, last, in_step(x, 1), skip, in_step(z, 1), weight, lengths, sizes, eps)
