"""SSD in one Triton launch forward and one backward, for the lengths of speech.

A program processes one head of one row, chunk after chunk, with the state in registers.  At 250 to 1500 steps, more launches
would cost more than parallel chunks would save.  The mathematics is that of `chunk.py`.  With M = gW * W, the gradient of the
running log decay a is  rowsum(M) - colsum(M)  plus the shares of the state, which are products that the gradients of C and B
need anyway.  The gradients of B and C are written per head, then summed over the heads of a group: no two programs add to the
same number, and every run gives the same bits.

Both directions (`HAS_BLOCKS`) take twice as many rows of programs.  Row b + i reads the steps of row i in reversed time inside
each block, with its own dt, B and C (and x and A, if given per direction), and writes y in forward order: nothing is flipped,
copied or joined outside.

A training step of a mixer (`samba_asr.ops.flat`) gives its dt before softplus and log(-A) (`RAW`), and starts from zeros.

Any sizes: tiles are powers of two, at least 16, and elements outside are masked.  Padding is never read.
Under TRITON_INTERPRET=1 the kernels run on CPU tensors, slowly.

Shapes: b batch, t time, h heads, p channels of a head, g groups, n state, c chunks of q steps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from samba_asr.ops.device import on_device
from samba_asr.ops.triton import contiguous, count_rows, count_slots, in_step, locate, only_if

CHUNK = 32
STEP = 16  # steps per chunk of a short live step; the smallest tile of a product
LEAST = tl.constexpr(-87.3)  # smallest log decay, the logarithm of the smallest float32; see chunk.py
WARPS = 8  # with 4, ptxas spills (sm_90, p = n = 64: forward 616 bytes of stack, with 8 none; backward 1888 and 944)


@triton.jit
def _way(pid, H, R, sizes, T, HAS_BLOCKS: tl.constexpr):
    """Return this program's row of x, its direction (0 forward, 1 backward), and the steps per block backward (else 0)."""
    i_b, way, size = pid // H, 0, 0
    if HAS_BLOCKS:
        way = (i_b // R).to(tl.int64)
        i_b = i_b % R
        size = tl.where(way == 1, tl.minimum(tl.load(sizes + i_b), T).to(tl.int32), 0)
    return i_b, way, size


@triton.jit
def _softplus(v):
    """As torch's; log(1 + u) keeps the digits of a small u."""
    u = tl.exp(tl.minimum(v, 20.0))
    wide = 1 + u
    return tl.where(v > 20, v, tl.where(wide == 1, u, tl.log(wide) * u / tl.where(wide == 1, 1.0, wide - 1)))


@triton.jit
def _sigmoid_before(dt_):
    """The derivative of softplus where it has this value: 1 - exp(-dt), with the digits of a small one."""
    series = dt_ * (1 - dt_ / 2 * (1 - dt_ / 3 * (1 - dt_ / 4)))
    return tl.where(dt_ < 0.05, series, 1 - tl.exp(-dt_))


@triton.jit
def _rate(A, i_h, RAW: tl.constexpr):
    A_ = tl.load(A + i_h).to(tl.float32)
    if RAW:
        A_ = -tl.exp(A_)
    return A_


@triton.jit
def _load_chunk(
    x,
    dt,
    dt_bias,
    B,
    C,
    reset,
    begin,
    i_h,
    i_g,
    i_c,
    length,
    size,
    P,
    N,
    SX,
    SDT,
    SB,
    SC,
    RAW: tl.constexpr,
    HAS_BLOCKS: tl.constexpr,
    HAS_RESET: tl.constexpr,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
):
    """Load one chunk in float32, with zeros at invalid steps.  row: index of each step.  r: resets so far."""
    q, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    step = i_c * Q + q
    valid = step < length
    row = begin + step
    r = tl.zeros([Q], tl.int32)
    if HAS_BLOCKS:  # noqa: SIM102  (this is known when the kernel is compiled, the other when it runs)
        if size > 0:
            first = step // size * size
            row = begin + tl.where(valid, first + tl.minimum(first + size, length) - 1 - step, step)
            r = tl.cumsum((valid & (step == first)).to(tl.int32), 0)
    if HAS_RESET:
        r = tl.cumsum(tl.load(reset + row, valid, other=0).to(tl.int32), 0)
    in_n = valid[:, None] & (n < N)[None, :]
    x_ = tl.load(x + (row * SX + i_h * P)[:, None] + p[None, :], valid[:, None] & (p < P)[None, :], other=0.0)
    dt_ = tl.load(dt + row * SDT + i_h, valid, other=0.0).to(tl.float32)
    if RAW:
        dt_ = tl.where(valid, _softplus(dt_ + tl.load(dt_bias + i_h).to(tl.float32)), 0.0)
    B_ = tl.load(B + (row * SB + i_g * N)[:, None] + n[None, :], in_n, other=0.0).to(tl.float32)
    C_ = tl.load(C + (row * SC + i_g * N)[:, None] + n[None, :], in_n, other=0.0).to(tl.float32)
    return row, valid, x_.to(tl.float32), dt_, B_, C_, r


@triton.jit
def _decays(exponent, r, Q: tl.constexpr):
    """Return decays between steps (q, q), from the start, to the end and over all, from dt A (q,) and resets so far (q,)."""
    q = tl.arange(0, Q)
    a = tl.cumsum(exponent, 0)
    last, r_last = tl.sum(exponent, 0), tl.max(r, 0)
    seen = (q[:, None] >= q[None, :]) & (r[:, None] == r[None, :])
    between = tl.exp(tl.where(seen, a[:, None] - a[None, :], float("-inf")))
    from_start = tl.where(r == 0, tl.exp(a), 0.0)
    to_end = tl.where(r == r_last, tl.exp(last - a), 0.0)
    through = tl.where(r_last == 0, tl.exp(last), 0.0)
    return between, from_start, to_end, through


@triton.jit
def _forward(
    x,
    dt,
    dt_bias,
    A,
    B,
    C,
    initial,
    lengths,
    offsets,
    reset,
    sizes,
    y,
    final,
    states,
    R,
    T,
    H,
    G,
    P,
    N,
    SX,
    SDT,
    SB,
    SC,
    WX,
    WA,
    WDT,
    WB,
    WC,
    RAW: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    HAS_FINAL: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_OFFSETS: tl.constexpr,
    HAS_RESET: tl.constexpr,
    HAS_BLOCKS: tl.constexpr,
    PRECISION: tl.constexpr,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
):
    pid = tl.program_id(0)
    i_h = pid % H
    i_g = i_h // (H // G)
    i_b, way, size = _way(pid, H, R, sizes, T, HAS_BLOCKS)
    begin, room, length, slot = locate(i_b, lengths, offsets, T, Q, HAS_LENGTHS, HAS_OFFSETS)
    if HAS_BLOCKS:
        x, A, dt, B, C = x + way * WX, A + way * WA, dt + way * WDT, B + way * WB, C + way * WC
        y, slot = y + way * R * T * H * P, slot + way * R * tl.cdiv(T, Q)
    p, n = tl.arange(0, BP), tl.arange(0, BN)
    in_state = (p < P)[:, None] & (n < N)[None, :]
    of_state = in_state  # the backward direction has no initial and no final state
    if HAS_BLOCKS:
        of_state = only_if(in_state, way == 0)
    place = p[:, None] * N + n[None, :]
    state = tl.zeros([BP, BN], tl.float32)
    if HAS_INITIAL:
        state = tl.load(initial + pid.to(tl.int64) * P * N + place, of_state, other=0.0).to(tl.float32)
    A_ = _rate(A, i_h, RAW)
    for i_c in range(tl.cdiv(room, Q)):
        tl.store(states + ((slot + i_c) * H + i_h) * P * N + place, state, in_state)
        row, _, x_, dt_, B_, C_, r = _load_chunk(
            x,
            dt,
            dt_bias,
            B,
            C,
            reset,
            begin,
            i_h,
            i_g,
            i_c,
            length,
            size,
            P,
            N,
            SX,
            SDT,
            SB,
            SC,
            RAW,
            HAS_BLOCKS,
            HAS_RESET,
            Q,
            BP,
            BN,
        )
        between, from_start, to_end, through = _decays(tl.maximum(dt_ * A_, LEAST), r, Q)
        u = x_ * dt_[:, None]
        weights = tl.dot(C_, tl.trans(B_), input_precision=PRECISION) * between
        y_ = tl.dot(weights, u, input_precision=PRECISION)
        y_ += tl.dot(C_, tl.trans(state), input_precision=PRECISION) * from_start[:, None]
        inside = (i_c * Q + tl.arange(0, Q) < room)[:, None] & (p < P)[None, :]
        tl.store(y + ((row * H + i_h) * P)[:, None] + p[None, :], y_.to(y.dtype.element_ty), inside)
        state = state * through + tl.dot(tl.trans(u * to_end[:, None]), B_, input_precision=PRECISION)
    if HAS_FINAL:
        tl.store(final + pid.to(tl.int64) * P * N + place, state, of_state)


@triton.jit
def _backward(
    x,
    dt,
    dt_bias,
    A,
    B,
    C,
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
    g_initial,
    R,
    T,
    H,
    G,
    P,
    N,
    SX,
    SDT,
    SB,
    SC,
    WX,
    WA,
    WDT,
    WB,
    WC,
    SGDT,
    RAW: tl.constexpr,
    HAS_FINAL: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_OFFSETS: tl.constexpr,
    HAS_RESET: tl.constexpr,
    HAS_BLOCKS: tl.constexpr,
    PRECISION: tl.constexpr,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
):
    pid = tl.program_id(0)
    i_h = pid % H
    i_g = i_h // (H // G)
    i_b, way, size = _way(pid, H, R, sizes, T, HAS_BLOCKS)
    begin, room, length, slot = locate(i_b, lengths, offsets, T, Q, HAS_LENGTHS, HAS_OFFSETS)
    if HAS_BLOCKS:
        steps = way * R * T * H  # offset of this direction in tensors of the shape of y
        x, A, dt, B, C = x + way * WX, A + way * WA, dt + way * WDT, B + way * WB, C + way * WC
        slot = slot + way * R * tl.cdiv(T, Q)
        gy, gx = gy + steps * P, gx + steps * P
    q, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    in_state = (p < P)[:, None] & (n < N)[None, :]
    of_state = in_state  # the backward direction has no initial and no final state
    if HAS_BLOCKS:
        of_state = only_if(in_state, way == 0)
    place = p[:, None] * N + n[None, :]
    g_state = tl.zeros([BP, BN], tl.float32)
    if HAS_FINAL:
        g_state = tl.load(g_final + pid.to(tl.int64) * P * N + place, of_state, other=0.0)
    A_ = _rate(A, i_h, RAW)
    gA_, g_bias_ = 0.0, 0.0
    chunks = tl.cdiv(room, Q)
    for back in range(chunks):
        i_c = chunks - 1 - back
        state = tl.load(states + ((slot + i_c) * H + i_h) * P * N + place, in_state, other=0.0)
        row, valid, x_, dt_, B_, C_, r = _load_chunk(
            x,
            dt,
            dt_bias,
            B,
            C,
            reset,
            begin,
            i_h,
            i_g,
            i_c,
            length,
            size,
            P,
            N,
            SX,
            SDT,
            SB,
            SC,
            RAW,
            HAS_BLOCKS,
            HAS_RESET,
            Q,
            BP,
            BN,
        )
        in_p = valid[:, None] & (p < P)[None, :]
        gy_ = tl.load(gy + ((row * H + i_h) * P)[:, None] + p[None, :], in_p, other=0.0).to(tl.float32)
        between, from_start, to_end, through = _decays(tl.maximum(dt_ * A_, LEAST), r, Q)
        u = x_ * dt_[:, None]
        scores = tl.dot(C_, tl.trans(B_), input_precision=PRECISION)
        g_weights = tl.dot(gy_, tl.trans(u), input_precision=PRECISION)
        g_scores = g_weights * between
        M = g_scores * scores

        gC_state = tl.dot(gy_ * from_start[:, None], state, input_precision=PRECISION)  # (q, n)
        gB_state = tl.dot(u * to_end[:, None], g_state, input_precision=PRECISION)
        gC_ = tl.dot(g_scores, B_, input_precision=PRECISION) + gC_state
        gB_ = tl.dot(tl.trans(g_scores), C_, input_precision=PRECISION) + gB_state
        gu = tl.dot(tl.trans(scores * between), gy_, input_precision=PRECISION)
        gu += tl.dot(B_, tl.trans(g_state), input_precision=PRECISION) * to_end[:, None]

        read, wrote = tl.sum(C_ * gC_state, 1), tl.sum(B_ * gB_state, 1)  # (q,)
        ga = tl.sum(M, 1) - tl.sum(M, 0) + read - wrote
        g_last = tl.sum(wrote, 0) + through * tl.sum(tl.sum(tl.where(in_state, g_state * state, 0.0), 1), 0)
        g_exponent = tl.where(dt_ * A_ > LEAST, tl.cumsum(ga, 0, reverse=True) + g_last, 0.0)
        g_dt_ = tl.where(valid, tl.sum(gu * x_, 1) + g_exponent * A_, 0.0)
        gA_ += tl.sum(g_exponent * dt_, 0)
        if RAW:
            g_dt_ = g_dt_ * _sigmoid_before(dt_)
            g_bias_ += tl.sum(g_dt_, 0)

        inside = i_c * Q + q < room
        wide = inside[:, None] & (n < N)[None, :]
        tl.store(
            gx + ((row * H + i_h) * P)[:, None] + p[None, :], gu * dt_[:, None], inside[:, None] & (p < P)[None, :]
        )
        head = row * H + i_h  # of this step, or of its direction of two
        if HAS_BLOCKS:
            head = (row * 2 + way) * H + i_h
        tl.store(g_dt + row * SGDT + way * H + i_h, g_dt_.to(g_dt.dtype.element_ty), inside)
        tl.store(gB + (head * N)[:, None] + n[None, :], gB_, wide)
        tl.store(gC + (head * N)[:, None] + n[None, :], gC_, wide)
        g_state = g_state * through + tl.dot(tl.trans(gy_ * from_start[:, None]), C_, input_precision=PRECISION)
    if RAW:  # of log(-A), and, behind them, of the bias
        gA_ = gA_ * A_
        tl.store(gA + tl.num_programs(0) + pid, g_bias_)
    tl.store(gA + pid, gA_)
    if HAS_FINAL:
        tl.store(g_initial + pid.to(tl.int64) * P * N + place, g_state, of_state)


@torch.library.custom_op("samba_asr::ssd_forward", mutates_args=())
def _ssd_forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial: Tensor | None,
    lengths: Tensor | None,
    offsets: Tensor | None,
    reset: Tensor | None,
    sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the final states (b, h, p, n), and the states that enter each chunk (c, h, p, n); states in float32.

    With `sizes`, both directions: dt (b, t, 2, h), B and C (b, t, 2, g, n), y (2, b, t, h, p); else dt (b, t, h) and so on.
    x may then be (b, t, 2, h, p), and A (2, h).
    """
    (b, t), (h, p) = x.shape[:2], x.shape[-2:]
    g, n = B.shape[-2:]
    rows, ways = count_rows(x, offsets), 1 if sizes is None else 2
    y = x.new_empty((b, t, h, p) if sizes is None else (2, b, t, h, p))
    final = x.new_empty(rows, h, p, n, dtype=torch.float32)
    states = x.new_empty(ways * count_slots(x, offsets, chunk(t)), h, p, n, dtype=torch.float32)
    if final.numel():
        with on_device(x):
            _forward[(ways * rows * h,)](
                x,
                dt,
                None,
                A,
                B,
                C,
                initial,
                lengths,
                offsets,
                reset,
                sizes,
                y,
                final,
                states,
                b,
                t,
                h,
                g,
                p,
                n,
                *_strides(x, dt, A, B, C, sizes),
                RAW=False,
                HAS_INITIAL=initial is not None,
                HAS_FINAL=True,
                HAS_LENGTHS=lengths is not None,
                HAS_OFFSETS=offsets is not None,
                HAS_RESET=reset is not None,
                HAS_BLOCKS=sizes is not None,
                PRECISION=precision(x),
                Q=chunk(t),
                BP=tile(p),
                BN=tile(n),
                num_warps=WARPS,
            )
    return y, final, states


@_ssd_forward.register_fake
def _(x, dt, A, B, C, initial, lengths, offsets, reset, sizes):
    (b, t), (h, p), n = x.shape[:2], x.shape[-2:], B.shape[-1]
    ways = 1 if sizes is None else 2
    new = lambda rows: x.new_empty(rows, h, p, n, dtype=torch.float32)  # noqa: E731
    y = x.new_empty((b, t, h, p) if sizes is None else (2, b, t, h, p))
    return y, new(count_rows(x, offsets)), new(ways * count_slots(x, offsets, chunk(t)))


@torch.library.custom_op("samba_asr::ssd_backward", mutates_args=())
def _ssd_backward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    lengths: Tensor | None,
    offsets: Tensor | None,
    reset: Tensor | None,
    sizes: Tensor | None,
    states: Tensor,
    gy: Tensor,
    g_final: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return gradients of x, in its type, and of dt, A, B, C and the initial state, float32."""
    (b, t), (h, p) = x.shape[:2], x.shape[-2:]
    g, n = B.shape[-2:]
    rows, ways = count_rows(x, offsets), 1 if sizes is None else 2
    new = lambda *shape: x.new_empty(shape, dtype=torch.float32)  # noqa: E731
    gx, gA, g_initial = x.new_empty(ways, b, t, h, p), new(ways, rows, h), new(rows, h, p, n)
    g_dt, gB, gC = new(*dt.shape), new(*B.shape[:-2], h, n), new(*B.shape[:-2], h, n)
    if g_initial.numel():
        with on_device(x):
            _backward[(ways * rows * h,)](
                x,
                dt,
                None,
                A,
                B,
                C,
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
                g_initial,
                b,
                t,
                h,
                g,
                p,
                n,
                *_strides(x, dt, A, B, C, sizes),
                ways * h,
                RAW=False,
                HAS_FINAL=True,
                HAS_LENGTHS=lengths is not None,
                HAS_OFFSETS=offsets is not None,
                HAS_RESET=reset is not None,
                HAS_BLOCKS=sizes is not None,
                PRECISION=precision(x),
                Q=chunk(t),
                BP=tile(p),
                BN=tile(n),
                num_warps=WARPS,
            )
    gB, gC = (v.unflatten(-2, (g, -1)).sum(-2) for v in (gB, gC))
    gx = gx.movedim(0, 2).contiguous() if x.dim() == 5 else gx.sum(0)
    gA = gA.sum(1) if A.dim() == 2 else gA.sum((0, 1))
    return gx, g_dt, gA, gB, gC, g_initial


@_ssd_backward.register_fake
def _(x, dt, A, B, C, lengths, offsets, reset, sizes, states, gy, g_final):
    new = lambda shape: x.new_empty(shape, dtype=torch.float32)  # noqa: E731
    return x.new_empty(x.shape), new(dt.shape), new(A.shape), new(B.shape), new(C.shape), new(g_final.shape)


def _setup(ctx, inputs, output):
    x, dt, A, B, C, initial, *where = inputs
    ctx.save_for_backward(x, dt, A, B, C, *where, output[2])
    ctx.initial = None if initial is None else initial.dtype


def _gradients(ctx, gy, g_final, _):
    x, dt, A, B, C, *where, states = ctx.saved_tensors
    *found, g_initial = _ssd_backward(x, dt, A, B, C, *where, states, gy.contiguous(), g_final.contiguous())
    found = [grad.to(v.dtype) for grad, v in zip(found, (x, dt, A, B, C), strict=True)]
    return *found, None if ctx.initial is None else g_initial.to(ctx.initial), None, None, None, None


_ssd_forward.register_autograd(_gradients, setup_context=_setup)


def ssd_triton(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    reset: Tensor | None = None,
    sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `samba_asr.ops.ssd.ssd` for the contract, `ssd_both_ways` for that of `sizes`.  float32 inside; not for float64."""
    x, dt, B, C = (in_step(v, tail) for v, tail in ((x, 2), (dt, 1), (B, 2), (C, 2)))
    y, final, _ = _ssd_forward(x, dt, A.contiguous(), B, C, *contiguous(initial_state, lengths, offsets, reset, sizes))
    return y, final


def _strides(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, sizes: Tensor | None) -> list[int]:
    """Return strides of x, dt, B, C between steps, and of x, A, dt, B, C between directions (0 if both share one)."""
    ways = [0, 0, 0] if sizes is None else [v.stride(2) for v in (dt, B, C)]
    ways = [x.stride(2) if x.dim() == 5 else 0, A.stride(0) if A.dim() == 2 else 0, *ways]
    return [v.stride(1) for v in (x, dt, B, C)] + ways


def chunk(t: int) -> int:
    return STEP if t <= STEP else CHUNK


def tile(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


def precision(x: Tensor) -> str:
    """Return the precision of products.  bfloat16 inputs have fewer digits than TensorFloat32 keeps."""
    return "ieee" if x.dtype == torch.float32 else "tf32"
