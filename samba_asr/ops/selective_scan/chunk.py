"""The selective scan in blocks of time, with a hand-written backward, for training on CPU.

    forward    h_k = a_k h_{k-1} + u_k B_k         a_k = exp(dt_k A),  u_k = dt_k x_k,  y_k = C_k h_k
    backward   g_k = gy_k C_k + a_{k+1} g_{k+1}    the same scan in reverse; g_k is the gradient of h_k
               gC_k = gy_k h_k    gB_k = u_k g_k    gu_k = B_k g_k    g(dt_k A) = g_k a_k h_{k-1}

Time is cut into blocks, so that the decays and states of one block stay in the processor's cache.  Inside a block all
arithmetic is done for every step at once, except the recurrence itself: one multiply-add per step, in place.
(Scanning pieces of time side by side, then correcting by the carried state, needs fewer calls but two more passes over
all states: measured on one core it wins only below 4 000 states per step, b d n, and is three times slower at 65 000.)
Only the state at the start of each block is kept for backward, which recomputes the decays and states of a block:
as fast as storing them, and far smaller.  Nothing is divided by a decay, so no dt overflows.

Here time comes first and channels last, (t, b, n, d): a step is one contiguous piece, and every product runs along
the channels.  b rows, t time steps, d channels, n states per channel, l steps per block
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from samba_asr.ops.precision import accumulation_dtype
from samba_asr.ops.selective_scan.complex import ComplexScan

BLOCK_ELEMENTS = 1 << 19  # elements of one buffer of a block, (l, b, n, d); 2 MiB in float32 (2^18..2^20: within 10 %)


def selective_scan_chunk(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    A_imag: Tensor | None = None,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.selective_scan` for the contract.  First derivatives only."""
    b, t, d = x.shape
    n = B.shape[-1]
    out_dtype, dtype = x.dtype, accumulation_dtype(x, dt, A, B, C, D, initial_state)
    x, dt, B, C = (v.to(dtype) for v in (x, dt, B, C))
    hidden = None
    if lengths is not None:
        # dt = 0 leaves the state as it is; the rest is zeroed because padding may hold NaN, and 0 * NaN is NaN
        hidden = torch.arange(t, device=x.device) >= lengths[:, None]  # (b, t)
        x, dt, B, C = (v.masked_fill(hidden[..., None], 0) for v in (x, dt, B, C))
        reset = None if reset is None else reset & ~hidden
    state = x.new_zeros(b, n, d) if initial_state is None else initial_state.to(dtype).transpose(1, 2).contiguous()
    x_, dt_, B_, C_ = (v.transpose(0, 1).contiguous() for v in (x, dt, B, C))  # (t, b, .)
    reset_ = None if reset is None else reset.T.contiguous()
    A_ = A.to(dtype).T.contiguous()
    if A_imag is None:
        y, state = _Scan.apply(x_, dt_, A_, B_, C_, state, reset_)
    else:
        A_im = A_imag.to(dtype).T.contiguous()
        y, state = ComplexScan.apply(x_, dt_, A_, A_im, B_, C_, state, reset_, BLOCK_ELEMENTS)
    y = y.transpose(0, 1).contiguous()  # (b, t, d)
    if D is not None:
        y = y + D.to(dtype) * x
    if hidden is not None:
        y = y.masked_fill(hidden[..., None], 0)
    return y.to(out_dtype), state.transpose(1, 2)


class _Scan(torch.autograd.Function):
    """x, dt (t, b, d); A (n, d); B, C (t, b, n); state (b, n, d); reset (t, b) or None -> y (t, b, d), state."""

    @staticmethod
    def forward(ctx, x, dt, A, B, C, state, reset):
        block = _Block(x, dt, A, B, reset)
        y = torch.empty_like(x)
        starts = x.new_empty(len(block.spans), *state.shape)
        with torch.autocast(x.device.type, enabled=False):
            for start, (i, j) in zip(starts, block.spans, strict=True):
                start.copy_(state)
                _, h = block.scan(i, j, start)
                y[i:j] = torch.matmul(C[i:j, :, None], h[1:]).squeeze(2)
                state = h[-1]
        ctx.save_for_backward(x, dt, A, B, C, starts, reset)
        return y, state.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gy, g_state):
        x, dt, A, B, C, starts, reset = ctx.saved_tensors
        block = _Block(x, dt, A, B, reset)
        u = block.u
        gy = gy.contiguous()
        gu, g_dt, gB, gC = (torch.empty_like(v) for v in (x, dt, B, C))
        gA = torch.zeros_like(A)
        buffer = torch.empty_like(block.a)
        with torch.autocast(x.device.type, enabled=False):
            for start, (i, j) in reversed(list(zip(starts, block.spans, strict=True))):
                a, h = block.scan(i, j, start)
                gC[i:j] = torch.matmul(gy[i:j, :, None], h[1:].mT).squeeze(2)
                block.forget(i, j)
                g = torch.mul(gy[i:j, :, None], C[i:j, :, :, None], out=buffer[: j - i])
                g[-1] += g_state
                steps = list(zip(a, g, strict=True))
                for (a_next, g_next), (_, g_here) in zip(steps[:0:-1], steps[-2::-1], strict=True):
                    g_here.addcmul_(a_next, g_next)
                g_state = a[0] * g[0]
                gB[i:j] = torch.matmul(u[i:j, :, None], g.mT).squeeze(2)
                gu[i:j] = torch.matmul(B[i:j, :, None], g).squeeze(2)
                g_exponent = a.mul_(g).mul_(h[:-1])  # the gradient of dt A
                torch.sum(torch.mul(g_exponent, A, out=g), 2, out=g_dt[i:j])
                gA += g_exponent.mul_(dt[i:j, :, None]).sum((0, 1))
        g_dt.addcmul_(gu, x)
        return gu.mul_(dt), g_dt, gA, gB, gC, g_state, None


class _Block:
    """Decays and states of one block of time, in buffers that all blocks of a scan share."""

    def __init__(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, reset: Tensor | None):
        t, b, d = x.shape
        n = A.shape[0]
        length = max(1, min(t, BLOCK_ELEMENTS // max(1, b * n * d)))
        self.spans = [(i, min(i + length, t)) for i in range(0, t, length)]
        self.u, self.dt, self.A, self.B = dt * x, dt, A, B
        self.reset = reset
        self.resets = [False] * t if reset is None else reset.any(1).tolist()  # steps at which some row is reset
        self.a = x.new_empty(length, b, n, d)
        self.h = x.new_empty(length + 1, b, n, d)

    def scan(self, i: int, j: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """Scan steps i..j-1 from `state`; return their decays (l, b, n, d) and the states (l + 1, b, n, d), `state` first."""
        a, h = self.a[: j - i], self.h[: j - i + 1]
        torch.mul(self.dt[i:j, :, None], self.A, out=a).exp_()
        h[0] = state
        torch.mul(self.u[i:j, :, None], self.B[i:j, :, :, None], out=h[1:])
        before = h[0]
        for k, decay, here in zip(range(i, j), a, h[1:], strict=True):
            if self.resets[k] and self.reset is not None:
                before = before.masked_fill(self.reset[k, :, None, None], 0)
            before = here.addcmul_(decay, before)
        return a, h

    def forget(self, i: int, j: int) -> None:
        """Zero the decays and the states before resets, in the buffers of `scan`, so that no gradient passes a reset."""
        for k in range(i, j):
            if self.resets[k] and self.reset is not None:
                forgotten = self.reset[k, :, None, None]
                self.a[k - i].masked_fill_(forgotten, 0)
                self.h[k - i].masked_fill_(forgotten, 0)
