"""The selective scan in one Triton launch forward and one backward, for the lengths of speech.

A program processes some channels of one row in chunks of time, with the state in registers.  Inside a chunk an associative
scan computes all steps.  The equations are those of `chunk.py`.  Backward recomputes the states of a chunk from the state that
entered it.  (Computing a_k h_{k-1} as h_k - u_k B_k would save a second load, but all digits cancel where decays are small.)
The gradients of B and C are written per block of channels, those of A and D per row, and summed afterwards: no two programs
add to the same number, and every run gives the same bits.

Both directions (`WAYS` = 2) take twice as many programs.  Backward programs go through each block of a row in reversed time,
with their own inputs and parameters, and write y in forward order: nothing is flipped, copied or joined outside.

Any sizes: tiles are powers of two, and elements outside are masked.  Padding is never read.
Under TRITON_INTERPRET=1 the kernels run on CPU tensors, slowly.

Shapes: b batch, t time, w directions, d channels in blocks, n states per channel, c chunks of q steps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from samba_asr.ops.device import on_device
from samba_asr.ops.triton import contiguous, count_rows, count_slots, locate, only_if

CHUNK = 16
CHANNELS = 16  # per program, at most
WARPS = 8  # with 4, ptxas spills backward (sm_90: 160 bytes of stack, with 8 none)


@triton.jit
def _then(a1, h1, a2, h2):
    """Compose h -> a1 h + h1, then h -> a2 h + h2.  A zero decay stops NaN too."""
    return tl.where(a2 == 0.0, 0.0, a1 * a2), tl.where(a2 == 0.0, 0.0, a2 * h1) + h2


@triton.jit
def _row(begin, step, length, size, WAYS: tl.constexpr):
    """Return the index of each step.  In the backward direction, `size` > 0, time is reversed inside each block."""
    row = begin + step
    if WAYS == 2:  # noqa: SIM102  (this is known when the kernel is compiled, the other when it runs)
        if size > 0:
            first = step // size * size
            back = begin + first + tl.minimum(first + size, length) - 1 - step
            row = tl.where((step >= 0) & (step < length), back, row)
    return row


@triton.jit
def _decay(
    dt,
    dt_bias,
    A,
    reset,
    begin,
    step,
    in_d,
    d,
    length,
    size,
    D_,
    HAS_DT_BIAS: tl.constexpr,
    HAS_RESET: tl.constexpr,
    WAYS: tl.constexpr,
):
    """Return exp(dt A) (q, d, n) of these steps, 1 after the end and 0 at a reset; and dt (q, d)."""
    valid = (step >= 0) & (step < length)
    row = _row(begin, step, length, size, WAYS) * WAYS
    dt_ = tl.load(dt + row[:, None] * D_ + d[None, :], valid[:, None] & in_d[None, :], other=0.0).to(tl.float32)
    if HAS_DT_BIAS:  # softplus
        dt_ += tl.load(dt_bias + d, in_d, other=0.0).to(tl.float32)[None, :]
        dt_ = tl.maximum(dt_, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(dt_)))
        dt_ = tl.where(valid[:, None], dt_, 0.0)
    decay = tl.exp(dt_[:, :, None] * A[None, :, :])
    if HAS_RESET:
        forget = tl.load(reset + row, valid, other=0) != 0
        decay = tl.where(forget[:, None, None], 0.0, decay)
    if WAYS == 2:  # noqa: SIM102
        if size > 0:
            decay = tl.where((valid & (step % size == 0))[:, None, None], 0.0, decay)
    return decay, dt_


@triton.jit
def _way(sizes, i_b, T, WAYS: tl.constexpr):
    """Return the direction, 0 forward or 1 backward, and the steps per block of the backward direction (else 0)."""
    way, size = tl.program_id(2).to(tl.int64), 0
    if WAYS == 2:
        size = tl.where(way == 1, tl.maximum(tl.minimum(tl.load(sizes + i_b), T), 1).to(tl.int32), 0)
    return way, size


@triton.jit
def _states(decay, inputs, state):
    """Return the states (q, d, n) after each step.  A decay of 0 stops NaN too."""
    through, h = tl.associative_scan((decay, inputs), 0, _then)
    return h + tl.where(through == 0.0, 0.0, through * state[None, :, :])


@triton.jit
def _forward(
    x,
    dt,
    A,
    B,
    C,
    D,
    z,
    dt_bias,
    initial,
    lengths,
    offsets,
    reset,
    sizes,
    y,
    final,
    states,
    T,
    D_,
    N,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_DT_BIAS: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_OFFSETS: tl.constexpr,
    HAS_RESET: tl.constexpr,
    WAYS: tl.constexpr,
    Q: tl.constexpr,
    BD: tl.constexpr,
    BN: tl.constexpr,
):
    i_b = tl.program_id(0).to(tl.int64)
    q, d, n = tl.arange(0, Q), tl.program_id(1) * BD + tl.arange(0, BD), tl.arange(0, BN)
    in_d, in_n = d < D_, n < N
    in_state = in_d[:, None] & in_n[None, :]
    place = d[:, None] * N + n[None, :]
    begin, room, length, slot = locate(i_b, lengths, offsets, T, Q, HAS_LENGTHS, HAS_OFFSETS)
    way, size = _way(sizes, i_b, T, WAYS)
    x, dt, y = x + way * D_, dt + way * D_, y + way * D_
    B, C, states = B + way * N, C + way * N, states + way * D_ * N
    A_ = tl.load(A + way * D_ * N + place, in_state, other=0.0).to(tl.float32)
    if HAS_D:
        D_ch = tl.load(D + way * D_ + d, in_d, other=0.0).to(tl.float32)
    if HAS_Z:
        z = z + way * D_
    if HAS_DT_BIAS:
        dt_bias = dt_bias + way * D_
    of_state = only_if(in_state, way == 0)  # the backward direction has no initial and no final state
    state = tl.zeros([BD, BN], tl.float32)
    if HAS_INITIAL:
        state = tl.load(initial + i_b * D_ * N + place, of_state, other=0.0).to(tl.float32)
    for i_c in range(tl.cdiv(room, Q)):
        tl.store(states + (slot + i_c) * WAYS * D_ * N + place, state, in_state)
        step = i_c * Q + q
        row = _row(begin, step, length, size, WAYS) * WAYS
        wide, narrow = (step < length)[:, None] & in_d[None, :], (step < length)[:, None] & in_n[None, :]
        decay, dt_ = _decay(
            dt, dt_bias, A_, reset, begin, step, in_d, d, length, size, D_, HAS_DT_BIAS, HAS_RESET, WAYS
        )
        x_ = tl.load(x + row[:, None] * D_ + d[None, :], wide, other=0.0).to(tl.float32)
        B_ = tl.load(B + row[:, None] * N + n[None, :], narrow, other=0.0).to(tl.float32)
        C_ = tl.load(C + row[:, None] * N + n[None, :], narrow, other=0.0).to(tl.float32)
        h = _states(decay, (dt_ * x_)[:, :, None] * B_[:, None, :], state)
        y_ = tl.sum(h * C_[:, None, :], 2)
        if HAS_D:
            y_ += x_ * D_ch[None, :]
        if HAS_Z:
            z_ = tl.load(z + row[:, None] * D_ + d[None, :], wide, other=0.0).to(tl.float32)
            y_ *= z_ * tl.sigmoid(z_)
        y_ = tl.where((step < length)[:, None], y_, 0.0)
        tl.store(y + row[:, None] * D_ + d[None, :], y_.to(y.dtype.element_ty), (step < room)[:, None] & in_d[None, :])
        state = tl.sum(tl.where((q == Q - 1)[:, None, None], h, 0.0), 0)
    tl.store(final + i_b * D_ * N + place, state, of_state)


@triton.jit
def _backward(
    x,
    dt,
    A,
    B,
    C,
    D,
    z,
    dt_bias,
    lengths,
    offsets,
    reset,
    sizes,
    states,
    gy,
    g_final,
    gx,
    g_dt,
    gA,
    gB,
    gC,
    gD,
    gz,
    g_bias,
    g_initial,
    T,
    D_,
    N,
    blocks,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_DT_BIAS: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_OFFSETS: tl.constexpr,
    HAS_RESET: tl.constexpr,
    WAYS: tl.constexpr,
    Q: tl.constexpr,
    BD: tl.constexpr,
    BN: tl.constexpr,
):
    i_b, i_d = tl.program_id(0).to(tl.int64), tl.program_id(1)
    q, d, n = tl.arange(0, Q), i_d * BD + tl.arange(0, BD), tl.arange(0, BN)
    in_d, in_n = d < D_, n < N
    in_state = in_d[:, None] & in_n[None, :]
    place = d[:, None] * N + n[None, :]
    begin, room, length, slot = locate(i_b, lengths, offsets, T, Q, HAS_LENGTHS, HAS_OFFSETS)
    way, size = _way(sizes, i_b, T, WAYS)
    x, dt, gy, gx, g_dt = x + way * D_, dt + way * D_, gy + way * D_, gx + way * D_, g_dt + way * D_
    B, C, states = B + way * N, C + way * N, states + way * D_ * N
    gB, gC = gB + way * blocks * N, gC + way * blocks * N
    A_ = tl.load(A + way * D_ * N + place, in_state, other=0.0).to(tl.float32)
    if HAS_D:
        D_ch = tl.load(D + way * D_ + d, in_d, other=0.0).to(tl.float32)
    if HAS_Z:
        z, gz = z + way * D_, gz + way * D_
    if HAS_DT_BIAS:
        dt_bias = dt_bias + way * D_
    of_state = only_if(in_state, way == 0)  # the backward direction has no initial and no final state
    g_state = tl.load(g_final + i_b * D_ * N + place, of_state, other=0.0)  # of the state after the next step
    gA_, gD_, g_bias_ = tl.zeros([BD, BN], tl.float32), tl.zeros([BD], tl.float32), tl.zeros([BD], tl.float32)
    chunks = tl.cdiv(room, Q)
    for back in range(chunks):
        i_c = chunks - 1 - back
        state = tl.load(states + (slot + i_c) * WAYS * D_ * N + place, in_state, other=0.0)
        step = i_c * Q + q
        row = _row(begin, step, length, size, WAYS) * WAYS
        wide, narrow = (step < length)[:, None] & in_d[None, :], (step < length)[:, None] & in_n[None, :]
        decay, dt_ = _decay(
            dt, dt_bias, A_, reset, begin, step, in_d, d, length, size, D_, HAS_DT_BIAS, HAS_RESET, WAYS
        )
        after, _ = _decay(
            dt, dt_bias, A_, reset, begin, step + 1, in_d, d, length, size, D_, HAS_DT_BIAS, HAS_RESET, WAYS
        )
        x_ = tl.load(x + row[:, None] * D_ + d[None, :], wide, other=0.0).to(tl.float32)
        gy_ = tl.load(gy + row[:, None] * D_ + d[None, :], wide, other=0.0).to(tl.float32)
        B_ = tl.load(B + row[:, None] * N + n[None, :], narrow, other=0.0).to(tl.float32)
        C_ = tl.load(C + row[:, None] * N + n[None, :], narrow, other=0.0).to(tl.float32)
        u = dt_ * x_

        # The state before a step is the state after the previous one: the same scan, one step late, started from `state`.
        late, dt_late = _decay(
            dt, dt_bias, A_, reset, begin, step - 1, in_d, d, length, size, D_, HAS_DT_BIAS, HAS_RESET, WAYS
        )
        seen = ((q > 0) & (step <= length))[:, None]
        row_late = _row(begin, step - 1, length, size, WAYS) * WAYS
        x_late = tl.load(x + row_late[:, None] * D_ + d[None, :], seen & in_d[None, :], other=0.0).to(tl.float32)
        B_late = tl.load(B + row_late[:, None] * N + n[None, :], seen & in_n[None, :], other=0.0).to(tl.float32)
        first = (q == 0)[:, None, None]
        late_inputs = tl.where(first, state[None, :, :], (dt_late * x_late)[:, :, None] * B_late[:, None, :])
        _, before = tl.associative_scan((tl.where(first, 0.0, late), late_inputs), 0, _then)
        kept = tl.where(decay == 0.0, 0.0, decay * before)  # decayed state of each step; a reset stops NaN
        h = kept + u[:, :, None] * B_[:, None, :]
        if HAS_Z:  # y = (C h + D x) silu(z)
            z_ = tl.load(z + row[:, None] * D_ + d[None, :], wide, other=0.0).to(tl.float32)
            gate = tl.sigmoid(z_)
            y_ = tl.sum(h * C_[:, None, :], 2)
            if HAS_D:
                y_ += x_ * D_ch[None, :]
            gz_ = tl.where((step < length)[:, None], gy_ * y_ * gate * (1 + z_ * (1 - gate)), 0.0)
            tl.store(gz + row[:, None] * D_ + d[None, :], gz_, (step < room)[:, None] & in_d[None, :])
            gy_ *= z_ * gate
        through, g = tl.associative_scan((after, gy_[:, :, None] * C_[:, None, :]), 0, _then, reverse=True)
        g = g + through * g_state[None, :, :]  # (q, d, n) gradient of the state after each step

        g_exponent = tl.where((step < length)[:, None, None], g * kept, 0.0)
        gu = tl.sum(g * B_[:, None, :], 2)
        gA_ += tl.sum(g_exponent * dt_[:, :, None], 0)
        g_dt_ = gu * x_ + tl.sum(g_exponent * A_[None, :, :], 2)
        if HAS_DT_BIAS:
            raw = tl.load(dt + row[:, None] * D_ + d[None, :], wide, other=0.0).to(tl.float32)
            raw += tl.load(dt_bias + d, in_d, other=0.0).to(tl.float32)[None, :]
            g_dt_ *= tl.sigmoid(raw)
            g_bias_ += tl.sum(g_dt_, 0)
        gB_, gC_ = tl.sum(g * u[:, :, None], 1), tl.sum(h * gy_[:, :, None], 1)

        inside = (step < room)[:, None] & in_d[None, :]
        gx_ = gu * dt_
        if HAS_D:
            gx_ += gy_ * D_ch[None, :]
            gD_ += tl.sum(gy_ * x_, 0)
        tl.store(gx + row[:, None] * D_ + d[None, :], gx_, inside)
        tl.store(g_dt + row[:, None] * D_ + d[None, :], g_dt_, inside)
        share = (row * blocks + i_d)[:, None] * N + n[None, :]  # (b, t, w, blocks, n)
        tl.store(gB + share, gB_, (step < room)[:, None] & in_n[None, :])
        tl.store(gC + share, gC_, (step < room)[:, None] & in_n[None, :])
        g_state = tl.sum(tl.where((q == 0)[:, None, None], g, 0.0), 0)
    if chunks > 0:
        first = tl.zeros([1], tl.int32)
        decay, _ = _decay(dt, dt_bias, A_, reset, begin, first, in_d, d, length, size, D_, HAS_DT_BIAS, HAS_RESET, WAYS)
        g_state = g_state * tl.sum(decay, 0)
    own = i_b * WAYS + way
    tl.store(gA + own * D_ * N + place, gA_, in_state)
    if HAS_D:
        tl.store(gD + own * D_ + d, gD_, in_d)
    if HAS_DT_BIAS:
        tl.store(g_bias + own * D_ + d, g_bias_, in_d)
    tl.store(g_initial + i_b * D_ * N + place, g_state, of_state)


@torch.library.custom_op("samba_asr::selective_scan_forward", mutates_args=())
def _scan_forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial: Tensor | None,
    lengths: Tensor | None,
    offsets: Tensor | None,
    reset: Tensor | None,
    sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y (b, t, d), the final states (b, d, n), and the states that enter each chunk (c, d, n); states in float32.

    With `sizes`, both directions: x, dt, z and y (b, t, 2, d), B and C (b, t, 2, n), A (2, d, n), D and dt_bias (2, d).
    """
    t, (d, n), ways = x.shape[1], A.shape[-2:], 1 if sizes is None else 2
    size, b = _tile(d), count_rows(x, offsets)
    y, final = torch.empty_like(x), x.new_empty(b, d, n, dtype=torch.float32)
    states = x.new_empty(count_slots(x, offsets, CHUNK), ways, d, n, dtype=torch.float32)
    if final.numel():
        with on_device(x):
            _forward[(b, triton.cdiv(d, size), ways)](
                x,
                dt,
                A,
                B,
                C,
                D,
                z,
                dt_bias,
                initial,
                lengths,
                offsets,
                reset,
                sizes,
                y,
                final,
                states,
                t,
                d,
                n,
                HAS_D=D is not None,
                HAS_Z=z is not None,
                HAS_DT_BIAS=dt_bias is not None,
                HAS_INITIAL=initial is not None,
                HAS_LENGTHS=lengths is not None,
                HAS_OFFSETS=offsets is not None,
                HAS_RESET=reset is not None,
                WAYS=ways,
                Q=CHUNK,
                BD=size,
                BN=triton.next_power_of_2(n),
                num_warps=WARPS,
            )
    return y, final, states


@_scan_forward.register_fake
def _(x, dt, A, B, C, D, z, dt_bias, initial, lengths, offsets, reset, sizes):
    d, n = A.shape[-2:]
    slots = (count_slots(x, offsets, CHUNK), 1 if sizes is None else 2)
    new = lambda *shape: x.new_empty(*shape, d, n, dtype=torch.float32)  # noqa: E731
    return torch.empty_like(x), new(count_rows(x, offsets)), new(*slots)


@torch.library.custom_op("samba_asr::selective_scan_backward", mutates_args=())
def _scan_backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    lengths: Tensor | None,
    offsets: Tensor | None,
    reset: Tensor | None,
    sizes: Tensor | None,
    states: Tensor,
    gy: Tensor,
    g_final: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return gradients of x, dt, A, B, C, D, z, dt_bias (empty if not given) and the initial state, all float32."""
    t, (d, n), ways = x.shape[1], A.shape[-2:], 1 if sizes is None else 2
    size, rows = _tile(d), count_rows(x, offsets)
    blocks = triton.cdiv(d, size)
    new = lambda *shape: x.new_empty(shape, dtype=torch.float32)  # noqa: E731
    gx, g_dt, gA, g_initial = new(*x.shape), new(*x.shape), new(rows, *A.shape), new(rows, d, n)
    gB, gC = new(*B.shape[:-1], blocks, n), new(*C.shape[:-1], blocks, n)
    gD, g_bias = (new(rows, *((0,) if v is None else v.shape)) for v in (D, dt_bias))
    gz = new(*((0,) if z is None else x.shape))
    if g_initial.numel():
        with on_device(x):
            _backward[(rows, blocks, ways)](
                x,
                dt,
                A,
                B,
                C,
                D,
                z,
                dt_bias,
                lengths,
                offsets,
                reset,
                sizes,
                states,
                gy,
                g_final,
                gx,
                g_dt,
                gA,
                gB,
                gC,
                gD,
                gz,
                g_bias,
                g_initial,
                t,
                d,
                n,
                blocks,
                HAS_D=D is not None,
                HAS_Z=z is not None,
                HAS_DT_BIAS=dt_bias is not None,
                HAS_LENGTHS=lengths is not None,
                HAS_OFFSETS=offsets is not None,
                HAS_RESET=reset is not None,
                WAYS=ways,
                Q=CHUNK,
                BD=size,
                BN=triton.next_power_of_2(n),
                num_warps=WARPS,
            )
    return gx, g_dt, gA.sum(0), gB.sum(-2), gC.sum(-2), gD.sum(0), gz, g_bias.sum(0), g_initial


@_scan_backward.register_fake
def _(x, dt, A, B, C, D, z, dt_bias, lengths, offsets, reset, sizes, states, gy, g_final):
    shapes = ((0,) if v is None else v.shape for v in (x, dt, A, B, C, D, z, dt_bias, g_final))
    return tuple(x.new_empty(shape, dtype=torch.float32) for shape in shapes)


def _setup(ctx, inputs, output):
    *given, initial, lengths, offsets, reset, sizes = inputs
    ctx.save_for_backward(*given, lengths, offsets, reset, sizes, output[2])
    ctx.initial = None if initial is None else initial.dtype


def _gradients(ctx, gy, g_final, _):
    given = ctx.saved_tensors[:8]
    *found, g_initial = _scan_backward(*ctx.saved_tensors, gy.contiguous(), g_final.contiguous())
    found = [None if v is None else grad.to(v.dtype) for grad, v in zip(found, given, strict=True)]
    return *found, None if ctx.initial is None else g_initial.to(ctx.initial), None, None, None, None


_scan_forward.register_autograd(_gradients, setup_context=_setup)


def selective_scan_triton(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    reset: Tensor | None = None,
    sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `selective_scan` for the contract, and `selective_scan_both_ways` for `sizes`.  float32 inside; not for float64."""
    y, final, _ = _scan_forward(
        *contiguous(x, dt, A, B, C, D, z, dt_bias, initial_state, lengths, offsets, reset, sizes)
    )
    return y, final


def _tile(d: int) -> int:
    return min(CHANNELS, triton.next_power_of_2(d))
