"""ParaRNN's cells for the faster backends: a step in place, and the derivatives of many steps at once.

Time comes first here, and a state has m rows: 1 in the GRU (h), 2 in the LSTM (c, h).  W holds the recurrent weights as rows:
A (3, d), then in the LSTM the peepholes C (2, d).

    s_t = f(s_{t-1}, x_t)        J_t = ds_t / ds_{t-1}, an m x m matrix for each channel
    backward  g_{t-1} += J_t^T g_t    then the gradients of x_t and W from g_t, elementwise (`Linear.pull`)

Shapes: t time, b rows, d channels, m rows of a state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Linear(NamedTuple):
    """Many steps, linear around given states."""

    value: Tensor  # (t, b, m, d) states after these steps
    J: Tensor  # (t, b, m, m, d): J[..., i, j, :] is the derivative of row i by row j of the state before
    pull: Callable[[Tensor, Tensor], Tensor]  # g (t, b, m, d), gx: write the gradient of x into gx, return that of W


class Cell(Protocol):
    """What the backends need to know of a cell."""

    rows: int  # m
    output: int  # row of the state that is the output

    def steps(self, W: Tensor, batch: int) -> Callable[[Tensor, Tensor, Tensor], None]:
        """Return step(x (b, 3, d), before (b, m, d), after): write the state after the step into `after`."""
        ...

    def linearize(self, x: Tensor, W: Tensor, before: Tensor) -> Linear:
        """Linearize steps with inputs x (t, b, 3, d) around the states before them, (t, b, m, d)."""
        ...


class ParaGru:
    """Gated recurrent unit with diagonal recurrent weights; `dispatch.para_gru` has the formula."""

    rows, output = 1, 0

    def steps(self, W: Tensor, batch: int) -> Callable[[Tensor, Tensor, Tensor], None]:
        gates = W.new_empty(batch, 2, W.shape[1])
        c = W.new_empty(batch, 1, W.shape[1])
        z, r = gates[:, :1], gates[:, 1:]
        A_gates, A_c = W[:2], W[2:3]

        def step(x: Tensor, before: Tensor, after: Tensor) -> None:
            torch.addcmul(x[:, :2], A_gates, before, out=gates)
            gates.sigmoid_()
            torch.addcmul(x[:, 2:], A_c, r.mul_(before), out=c)
            torch.lerp(before, c.tanh_(), z, out=after)

        return step

    def linearize(self, x: Tensor, W: Tensor, before: Tensor) -> Linear:
        h, A_z, A_r, A_c = before, W[0], W[1], W[2]
        z, r = torch.addcmul(x[:, :, :2], W[:2], h).sigmoid_().split(1, 2)  # (t, b, 1, d)
        rh = r * h
        c = torch.addcmul(x[:, :, 2:], A_c, rh).tanh_()
        offset = c - h
        by_x = torch.empty_like(x)  # derivatives of h' by the three inputs
        by_z, by_r, by_c = by_x.split(1, 2)
        torch.mul(z, offset, out=by_z).addcmul_(by_z, z, value=-1)  # (c - h) z (1 - z)
        torch.addcmul(z, z * c, c, value=-1, out=by_c)  # z (1 - c^2)
        by_h_inside = by_c * A_c  # of h' by r h
        torch.mul(by_h_inside, rh, out=by_r).addcmul_(by_r, r, value=-1)
        J = by_h_inside.mul_(r).sub_(z).add_(1).addcmul_(by_z, A_z).addcmul_(by_r, A_r)

        def pull(g: Tensor, gx: Tensor) -> Tensor:
            torch.mul(by_x, g, out=gx)
            return torch.cat([(gx[:, :, :2] * h).sum((0, 1)), (gx[:, :, 2:] * rh).sum((0, 1))])

        return Linear(offset.mul_(z).add_(h), J.unsqueeze(2), pull)


class ParaLstm:
    """Long short-term memory with coupled gates and diagonal recurrent weights; `dispatch.para_lstm` has the formula."""

    rows, output = 2, 1

    def steps(self, W: Tensor, batch: int) -> Callable[[Tensor, Tensor, Tensor], None]:
        gates = W.new_empty(batch, 3, W.shape[1])
        f, o, g = gates.split(1, 1)
        A, C_f, C_o = W[:3], W[3:4], W[4:5]

        def step(x: Tensor, before: Tensor, after: Tensor) -> None:
            c, c_after, h_after = before[:, :1], after[:, :1], after[:, 1:]
            torch.addcmul(x, A, before[:, 1:], out=gates)
            f.addcmul_(C_f, c).sigmoid_()
            torch.lerp(g.tanh_(), c, f, out=c_after)  # f c + (1 - f) g
            o.addcmul_(C_o, c_after).sigmoid_()
            torch.tanh(c_after, out=h_after).mul_(o)

        return step

    def linearize(self, x: Tensor, W: Tensor, before: Tensor) -> Linear:
        (c, h), (A_f, A_o, A_g, C_f, C_o) = before.split(1, 2), W
        f, o, g = torch.addcmul(x, W[:3], h).split(1, 2)  # (t, b, 1, d)
        f.addcmul_(C_f, c).sigmoid_()
        g.tanh_()
        value = torch.empty_like(before)
        c_after, h_after = value.split(1, 2)
        torch.lerp(g, c, f, out=c_after)
        o.addcmul_(C_o, c_after).sigmoid_()
        squashed = c_after.tanh()
        torch.mul(o, squashed, out=h_after)
        c_by_f = (c - g) * f * (1 - f)
        c_by_g = (1 - f) * (1 - g * g)
        h_by_o = h_after * (1 - o)  # o (1 - o) tanh(c')
        h_by_c = h_by_o * C_o + o * (1 - squashed * squashed)  # of h' by c'
        J = x.new_empty(*x.shape[:2], 2, 2, x.shape[3])
        c_by_c, c_by_h, h_by_c_before, h_by_h = (J[:, :, i : i + 1, j] for i in (0, 1) for j in (0, 1))
        torch.addcmul(f, c_by_f, C_f, out=c_by_c)
        torch.mul(c_by_f, A_f, out=c_by_h).addcmul_(c_by_g, A_g)
        torch.mul(h_by_c, c_by_c, out=h_by_c_before)
        torch.mul(h_by_o, A_o, out=h_by_h).addcmul_(h_by_c, c_by_h)

        def pull(g: Tensor, gx: Tensor) -> Tensor:
            gc, gh = g.split(1, 2)
            gc = torch.addcmul(gc, h_by_c, gh)  # through h' too
            for part, g_row, slope in zip(gx.split(1, 2), (gc, gh, gc), (c_by_f, h_by_o, c_by_g), strict=True):
                torch.mul(g_row, slope, out=part)
            gC = torch.cat([(gx[:, :, :1] * c).sum((0, 1)), (gx[:, :, 1:2] * c_after).sum((0, 1))])
            return torch.cat([(gx * h).sum((0, 1)), gC])

        return Linear(value, J, pull)
