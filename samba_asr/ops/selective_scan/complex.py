"""The selective scan with complex states, in blocks of time, with a hand-written backward (see `chunk.py`).

    forward    h_k = a_k h_{k-1} + u_k B_k            a_k = exp(dt_k A),  u_k = dt_k x_k,  y_k = 2 Re(C_k h_k)
    backward   g_k = 2 gy_k conj(C_k) + G_{k+1}       G_k = conj(a_k) g_k, the gradient of h_{k-1} through step k
               gC_k = 2 gy_k conj(h_k)    gB_k = u_k g_k    gu_k = Re(conj(B_k) g_k)    g(dt_k A) = G_k conj(h_{k-1})

A gradient is that of the real and of the imaginary part.  Both parts lie side by side as real numbers, (l, b, 2 m, d), real parts
first: complex64 tensors would be four times slower on a CPU.
Shapes: b rows, t time steps, d channels, m complex states per channel, l steps per block
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class ComplexScan(torch.autograd.Function):
    """x, dt (t, b, d); A_re, A_im (m, d); B, C (t, b, 2 m); state (b, 2 m, d); reset (t, b) or None -> y (t, b, d), state.

    elements: of one buffer of a block, (l, b, 2 m, d).
    """

    @staticmethod
    def forward(ctx, x, dt, A_re, A_im, B, C, state, reset, elements):
        block = _Block(x, dt, A_re, A_im, B, reset, elements)
        y = torch.empty_like(x)
        read = _read(C)
        starts = x.new_empty(len(block.spans), *state.shape)
        with torch.autocast(x.device.type, enabled=False):
            for start, (i, j) in zip(starts, block.spans, strict=True):
                start.copy_(state)
                _, _, h = block.scan(i, j, start)
                y[i:j] = torch.matmul(read[i:j, :, None], h[1:]).squeeze(2)
                state = h[-1]
        ctx.save_for_backward(x, dt, A_re, A_im, B, C, starts, reset)
        ctx.elements = elements
        return y, state.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gy, g_state):
        x, dt, A_re, A_im, B, C, starts, reset = ctx.saved_tensors
        block, read = _Block(x, dt, A_re, A_im, B, reset, ctx.elements), _read(C)
        m, u, gy = len(A_re), block.u, gy.contiguous()
        gu, g_dt, gB, g_read = (torch.empty_like(v) for v in (x, dt, B, C))
        gA_re, gA_im = torch.zeros_like(A_re), torch.zeros_like(A_im)
        with torch.autocast(x.device.type, enabled=False):
            for start, (i, j) in reversed(list(zip(starts, block.spans, strict=True))):
                a_re, a_im, h = block.scan(i, j, start)
                g_read[i:j] = torch.matmul(gy[i:j, :, None], h[1:].mT).squeeze(2)
                block.forget(i, j)
                g = gy[i:j, :, None] * read[i:j, :, :, None]
                passed = torch.empty_like(g)  # G
                for k in range(j - i - 1, -1, -1):
                    g_state = g[k].add_(g_state)
                    re, im = g_state[:, :m], g_state[:, m:]
                    torch.mul(a_re[k], re, out=passed[k, :, :m]).addcmul_(a_im[k], im)
                    torch.mul(a_re[k], im, out=passed[k, :, m:]).addcmul_(a_im[k], re, value=-1)
                    g_state = passed[k]
                gB[i:j] = torch.matmul(u[i:j, :, None], g.mT).squeeze(2)
                gu[i:j] = torch.matmul(B[i:j, :, None], g).squeeze(2)
                h_re, h_im, p_re, p_im = h[:-1, :, :m], h[:-1, :, m:], passed[:, :, :m], passed[:, :, m:]
                g_re = torch.mul(p_re, h_re).addcmul_(p_im, h_im)  # the gradient of dt A
                g_im = torch.mul(p_im, h_re).addcmul_(p_re, h_im, value=-1)
                torch.sum(torch.mul(g_re, A_re).addcmul_(g_im, A_im), 2, out=g_dt[i:j])
                gA_re += g_re.mul_(dt[i:j, :, None]).sum((0, 1))
                gA_im += g_im.mul_(dt[i:j, :, None]).sum((0, 1))
                g_state = g_state.clone()
        g_dt.addcmul_(gu, x)
        return gu.mul_(dt), g_dt, gA_re, gA_im, gB, _read(g_read), g_state, None, None


def _read(C: Tensor) -> Tensor:
    """Return (.., 2 m) the real weights of a state in 2 Re(C h); also the gradient of C from that of the weights."""
    re, im = C.chunk(2, -1)
    return torch.cat([2 * re, -2 * im], -1)


class _Block:
    """Decays and states of one block of time, in buffers that all blocks of a scan share."""

    def __init__(
        self, x: Tensor, dt: Tensor, A_re: Tensor, A_im: Tensor, B: Tensor, reset: Tensor | None, elements: int
    ):
        t, b, d = x.shape
        m = A_re.shape[0]
        length = max(1, min(t, elements // max(1, 2 * b * m * d)))
        self.spans = [(i, min(i + length, t)) for i in range(0, t, length)]
        self.u, self.dt, self.A_re, self.A_im, self.B = dt * x, dt, A_re, A_im, B
        self.reset = reset
        self.resets = [False] * t if reset is None else reset.any(1).tolist()  # steps at which some row is reset
        self.a_re, self.a_im = x.new_empty(2, length, b, m, d).unbind()
        self.h = x.new_empty(length + 1, b, 2 * m, d)

    def scan(self, i: int, j: int, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scan steps i..j-1 from `state`; return a, two of (l, b, m, d), and h (l + 1, b, 2 m, d), `state` first."""
        a_re, a_im, h = self.a_re[: j - i], self.a_im[: j - i], self.h[: j - i + 1]
        m = a_re.shape[2]
        dt = self.dt[i:j, :, None]
        size, phase = (dt * self.A_re).exp_(), dt * self.A_im
        torch.mul(torch.cos(phase, out=a_re), size, out=a_re)
        torch.mul(torch.sin(phase, out=a_im), size, out=a_im)
        h[0] = state
        torch.mul(self.u[i:j, :, None], self.B[i:j, :, :, None], out=h[1:])
        before = h[0]
        for k, here in zip(range(i, j), h[1:], strict=True):
            if self.resets[k] and self.reset is not None:
                before = before.masked_fill(self.reset[k, :, None, None], 0)
            re, im = before[:, :m], before[:, m:]
            here[:, :m].addcmul_(a_re[k - i], re).addcmul_(a_im[k - i], im, value=-1)
            here[:, m:].addcmul_(a_re[k - i], im).addcmul_(a_im[k - i], re)
            before = here
        return a_re, a_im, h

    def forget(self, i: int, j: int) -> None:
        """Zero the decays and the states before resets, in the buffers of `scan`, so that no gradient passes a reset."""
        for k in range(i, j):
            if self.resets[k] and self.reset is not None:
                forgotten = self.reset[k, :, None, None]
                for buffer in (self.a_re, self.a_im, self.h):
                    buffer[k - i].masked_fill_(forgotten, 0)
