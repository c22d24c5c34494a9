"""The two-dimensional scan as a wavefront, with a hand-written adjoint that recomputes states.

Cells on a diagonal s = t + v depend on diagonal s - 1 alone: (t, v) on (t - 1, v) at the same v, and on (t, v - 1) at v - 1.
So t + v - 1 steps compute the plane, each with two multiply-adds over all bands at once:

    [h1[s, v]    ]     [ r1 (1 - m1)   r1 m1       ]   [h1[s - 1, v]]
    [h2[s, v + 1]]  =  [ r2 m2         r2 (1 - m2) ] . [h2[s - 1, v]]  +  inputs        (r2 of band v + 1)

The adjoint is the same with these matrices M transposed, from the last diagonal to the first.  It is exact.  The associative
scan of the paper multiplies such matrices, eight times the work, for a depth of log(t).

Diagonals come first and the batch last, (s, ..., v, b): every operand is contiguous along bands and rows.  A buffer of states has
v + 1 bands, so that h2[v + 1] has a place.  Cells outside the plane have M = 0 and no input, and are 0.  Diagonals are computed
in blocks that stay in the processor's cache; only the last diagonal of each block is kept for backward.
s diagonals, b rows, t time steps, v bands, h heads, p channels of a head, g groups of heads, n states per channel, k = n p
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from samba_asr.ops.precision import accumulation_dtype
from samba_asr.streaming import mask

BLOCK_ELEMENTS = 1 << 18  # states of a block of diagonals


def scan2d_wave(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    mix: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.scan2d` for the contract.  First derivatives only."""
    dtype = accumulation_dtype(x, dt, A, mix, B, C, initial_state)
    b, t, v, h, p = x.shape
    g, n = B.shape[4:]
    start = x.new_zeros(b, 2, v, h, n, p, dtype=dtype) if initial_state is None else initial_state.to(dtype)
    if t == 0:
        return x, start
    inputs, dt, B, C = (mask(value, lengths).to(dtype) for value in (x, dt, B, C))
    A, mix = A.to(dtype), mix.to(dtype)
    decay = torch.exp(dt * A).unsqueeze(-2)  # (b, t, v, 2, 1, h)
    own = torch.stack([1 - mix, mix], 1)  # (2, 2, h): row 0 of M from its own state first, row 1 from the other first
    M = decay * torch.stack([own[0], own[1].flip(0)])  # (b, t, v, 2, 2, h)
    weight = dt.unsqueeze(-1) * B.repeat_interleave(h // g, 4)  # (b, t, v, 2, h, n)

    entering = (M[:, 0, :, 0, :, :, None, None] * start.transpose(1, 2)).sum(2)  # (b, v, h, n, p), into h1 at t = 0
    M = _Skew.apply(M.permute(0, 1, 2, 5, 3, 4).flatten(3)).unflatten(1, (h, 2, 2))  # (s, h, 2, 2, v, b)
    M = torch.cat([M[:, :, :1], F.pad(M[:, :, 1:, :, 1:], (0, 0, 0, 1))], 2)  # h2 is computed one band ahead
    y, state = _Wave.apply(
        _Skew.apply(inputs.flatten(3)).unflatten(1, (h, p)),
        _Skew.apply(weight.transpose(3, 4).flatten(3)).unflatten(1, (h, 2, n)),
        M,
        _Skew.apply(C.transpose(3, 4).flatten(3)).unflatten(1, (g, 2, n)),
        entering.permute(2, 3, 4, 1, 0).flatten(1, 2),
        None if lengths is None else (lengths - 1).clamp(min=0),
    )
    y = _Unskew.apply(y.flatten(1, 2), t).unflatten(3, (h, p))
    state = state.unflatten(2, (n, p)).permute(5, 1, 4, 0, 2, 3)  # (b, 2, v, h, n, p)
    if lengths is not None:
        state = torch.where((lengths == 0).view(b, 1, 1, 1, 1, 1), start, state)
    return mask(y, lengths).to(x.dtype), state


class _Skew(torch.autograd.Function):
    """(b, t, v, c) -> (s, c, v, b): y[t + v, :, v] = x[:, t, v], and 0 outside the plane."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.t = x.shape[1]
        return _skewed(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _unskewed(gradient, ctx.t)


class _Unskew(torch.autograd.Function):
    """The inverse of `_Skew`."""

    @staticmethod
    def forward(ctx, y: Tensor, t: int) -> Tensor:
        return _unskewed(y, t)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return _skewed(gradient), None


def _skewed(x: Tensor) -> Tensor:
    b, t, v, c = x.shape
    y = x.new_zeros(t + v - 1, c, v, b)
    x = x.permute(2, 1, 3, 0)  # (v, t, c, b)
    for j in range(v):
        y[j : j + t, :, j] = x[j]
    return y


def _unskewed(y: Tensor, t: int) -> Tensor:
    _, c, v, b = y.shape
    x = y.new_empty(b, t, v, c)
    for j in range(v):
        x[:, :, j] = y[j : j + t, :, j].permute(2, 0, 1)
    return x


class _Wave(torch.autograd.Function):
    """The wavefront on skewed inputs; M has its second row one band ahead.

    x (s, h, p, v, b), weight (s, h, 2, n, v, b), M (s, h, 2, 2, v, b), C (s, g, 2, n, v, b), entering (h, k, v, b),
    last (b,) or None -> y (s, h, p, v, b), state (h, 2, k, v, b)
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, M: Tensor, C: Tensor, entering: Tensor, last: Tensor | None):
        plane = _Plane(x, weight, M, C, entering, last)
        y = torch.zeros_like(x)
        h, k, v, b = entering.shape
        state = x.new_empty(h, 2, k, v, b)
        starts = []
        with torch.autocast(x.device.type, enabled=False):
            before = x.new_zeros(h, 2, k, v + 1, b)
            for i, j in plane.spans:
                starts.append(before)
                states = plane.scan(i, j, before)
                plane.read(i, j, states, y)
                if ends := plane.ends(i, j):
                    at, bands, rows = ends
                    state[..., bands, rows] = states[1:].movedim(0, 3)[:, :, :, at, bands, rows]
                before = states[-1].clone()
        ctx.save_for_backward(x, weight, M, C, entering, last, *starts)
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx, gy: Tensor, g_state: Tensor):
        x, weight, M, C, entering, last, *starts = ctx.saved_tensors
        plane = _Plane(x, weight, M, C, entering, last)
        found = [torch.zeros_like(value) for value in (x, weight, M, C, entering)]
        gy = gy.contiguous()
        carried = torch.zeros_like(g_state)
        with torch.autocast(x.device.type, enabled=False):
            for (i, j), before in reversed(list(zip(plane.spans, starts, strict=True))):
                states = plane.scan(i, j, before)
                g, carried = plane.adjoint(i, j, gy, g_state, carried)
                plane.pull(i, j, states, g, gy, *found)
        return *found, None


class _Plane:
    """States and their adjoints for one block of diagonals, in buffers that all blocks share."""

    def __init__(self, x: Tensor, weight: Tensor, M: Tensor, C: Tensor, entering: Tensor, last: Tensor | None):
        s, h, p, v, b = x.shape
        g, n = C.shape[1], C.shape[3]
        self.x, self.weight, self.M, self.C, self.entering = x, weight, M, C, entering
        self.size = g, n, p, v
        length = max(1, min(s, BLOCK_ELEMENTS // (h * 2 * n * p * (v + 1) * b)))
        self.spans = [(i, min(i + length, s)) for i in range(0, s, length)]
        self.states = x.new_zeros(length + 1, h, 2, n * p, v + 1, b)  # the diagonal before the block first
        self.g = torch.zeros_like(self.states[1:])
        end = x.new_full((b,), s - v, dtype=torch.long) if last is None else last
        self.diagonals = end + torch.arange(v, device=x.device)[:, None]  # (v, b) of the last valid step
        self.first, self.final = int(self.diagonals.min()), int(self.diagonals.max())

    def scan(self, i: int, j: int, before: Tensor) -> Tensor:
        """Scan diagonals i..j-1; return the states (l + 1, h, 2, k, v + 1, b), `before` first."""
        _, n, p, v = self.size
        states = self.states[: j - i + 1]
        states[0] = before
        inputs = states[1:, ..., :v, :].unflatten(3, (n, p))
        torch.mul(self.weight[i:j].unsqueeze(4), self.x[i:j, :, None, None], out=inputs)
        if i < v:
            d = torch.arange(i, min(j, v), device=before.device)
            states[d - i + 1, :, 0, :, d] += self.entering[:, :, d].movedim(2, 0)
        own, other = (self.M[i:j, :, :, c, None].unbind() for c in (0, 1))  # (h, 2, 1, v, b)
        read1, read2 = (states[:-1, :, c, None, :, :v].unbind() for c in (0, 1))  # (h, 1, k, v, b)
        for out, m1, h1, m2, h2 in zip(_ahead(states[1:]).unbind(), own, read1, other, read2, strict=True):
            out.addcmul_(m1, h1).addcmul_(m2, h2)
        return states

    def read(self, i: int, j: int, states: Tensor, y: Tensor) -> None:
        """Add C . h to y[i:j]."""
        g, n, p, v = self.size
        of_group = states[1:, ..., :v, :].unflatten(3, (n, p)).unflatten(1, (g, -1))  # (l, g, h / g, 2, n, p, v, b)
        here = y[i:j].unflatten(1, (g, -1))
        for c in (0, 1):
            for k in range(n):
                here.addcmul_(self.C[i:j, :, None, c, k, None], of_group[:, :, :, c, k])

    def ends(self, i: int, j: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return where the last valid steps are in this block: diagonals from i, bands and rows; None if nowhere."""
        if j <= self.first or i > self.final:
            return None
        bands, rows = ((self.diagonals >= i) & (self.diagonals < j)).nonzero(as_tuple=True)
        return self.diagonals[bands, rows] - i, bands, rows

    def adjoint(self, i: int, j: int, gy: Tensor, g_state: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of the states of diagonals i..j-1, and what they add to diagonal i - 1, (h, 2, k, v, b)."""
        g, n, p, v = self.size
        found = self.g[: j - i]
        into = found[..., :v, :]
        outputs = into.unflatten(3, (n, p)).unflatten(1, (g, -1))
        torch.mul(self.C[i:j, :, None, :, :, None], gy[i:j].unflatten(1, (g, -1))[:, :, :, None, None], out=outputs)
        if ends := self.ends(i, j):
            at, bands, rows = ends
            found[at, :, :, :, bands, rows] += g_state[..., bands, rows].movedim(3, 0)
        into[-1] += carried
        row1, row2 = (self.M[i:j, :, c, :, None].unbind() for c in (0, 1))  # (h, 2, 1, v, b)
        g1, g2 = found[:, :, 0, None, :, :v].unbind(), found[:, :, 1, None, :, 1:].unbind()  # (h, 1, k, v, b)
        steps = into.unbind()
        for d in range(len(steps) - 1, 0, -1):
            steps[d - 1].addcmul_(row1[d], g1[d]).addcmul_(row2[d], g2[d])
        return found, row1[0] * g1[0] + row2[0] * g2[0]

    def pull(self, i: int, j: int, states: Tensor, found: Tensor, gy: Tensor, gx, g_weight, gM, gC, g_entering) -> None:
        """Write the gradients of the inputs of diagonals i..j-1 from those of their states."""
        g, n, p, v = self.size
        own = found[..., :v, :].unflatten(3, (n, p))  # (l, h, 2, n, p, v, b)
        for c in (0, 1):
            for k in range(n):
                gx[i:j].addcmul_(self.weight[i:j, :, c, k, None], own[:, :, c, k])
        for k in range(p):
            g_weight[i:j].addcmul_(self.x[i:j, :, None, None, k], own[:, :, :, :, k])
        of_group = states[1:, ..., :v, :].unflatten(3, (n, p)).unflatten(1, (g, -1))
        of_y = gy[i:j].unflatten(1, (g, -1))  # (l, g, h / g, p, v, b)
        for head in range(of_y.shape[2]):
            for k in range(p):
                gC[i:j].addcmul_(of_y[:, :, head, None, None, k], of_group[:, :, head, :, :, k])
        ahead, before = _ahead(found), states[:-1, ..., :v, :]
        for row in (0, 1):
            for source in (0, 1):
                torch.sum(ahead[:, :, row] * before[:, :, source], 2, out=gM[i:j, :, row, source])
        if i < v:
            d = torch.arange(i, min(j, v), device=gy.device)
            g_entering[:, :, d] = found[d - i, :, 0, :, d].movedim(0, 2)


def _ahead(states: Tensor) -> Tensor:
    """View states (l, h, 2, k, v + 1, b) as (l, h, 2, k, v, b): h1 of bands 0..v-1, h2 of bands 1..v."""
    size, stride = list(states.shape), list(states.stride())
    size[4] -= 1
    stride[2] += stride[4]
    return states.as_strided(size, stride, states.storage_offset())
