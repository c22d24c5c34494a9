"""A scan of one of ParaRNN's cells, with the adjoint written by hand: the backends differ in how they solve two recurrences.

    forward    s_t = f(s_{t-1}, x_t)                nonlinear: a loop, or Newton's method
    backward   g_{t-1} += J_t^T g_t                 linear: a loop, or a reduction

Autograd would keep ten tensors a step and call twenty functions for each; here only inputs and states are kept, and all that
is not the recurrence is computed for many steps at once.

A row goes on with inputs of zero after its last valid step.  Nothing of that is read, and no gradient enters there.
Shapes: t time, b rows, d channels, m rows of a state.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from samba_asr.ops.precision import accumulation_dtype
from samba_asr.ops.rnn.cells import Cell
from samba_asr.streaming import mask

BLOCK_ELEMENTS = {"cpu": 1 << 16}
"""Elements of one (l, b, d) tensor of the l steps whose derivatives are computed at once: few on a CPU, for its cache (2^15 to
2^17 are within 10 %).  Devices that are not named here take `MOST`."""

MOST = 1 << 24
"""The same for a GPU: bounds the memory, at most sixteen such tensors."""


class Problem(NamedTuple):
    """The recurrence to solve."""

    cell: Cell
    x: Tensor  # (t, b, 3, d), no padding in it
    W: Tensor
    resets: dict[
        int, Tensor
    ]  # step -> (b, 1, 1) bool, rows whose state is cleared before it; steps without any are left out


class Solver(Protocol):
    """How a backend solves the two recurrences."""

    def forward(self, problem: Problem, states: Tensor) -> None:
        """Fill states[1:] of states (t + 1, b, m, d) from states[0]."""
        ...

    def backward(self, J: Tensor, g: Tensor) -> None:
        """Add J_t^T g_t to g_{t-1} in place, from the last step to the first.  J (l, b, m, m, d), g (l, b, m, d)."""
        ...


def scan(
    cell: Cell,
    solver: Solver,
    x: Tensor,
    W: tuple[Tensor, ...],
    initial_state: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run the cell on x (b, t, 3, d) with its weights; return y (b, t, d) and the state (b, m, d)."""
    dtype = accumulation_dtype(x, *W, initial_state)
    b, t, _, d = x.shape
    start = x.new_zeros(b, cell.rows, d, dtype=dtype) if initial_state is None else initial_state.to(dtype)
    if t == 0:
        return x.new_zeros(b, 0, d), start
    inputs = mask(x, lengths).to(dtype).transpose(0, 1).contiguous()  # (t, b, 3, d)
    weights = torch.cat([w.to(dtype) for w in W])
    last = None if lengths is None else (lengths - 1).clamp(min=0)
    y, state = _Scan.apply(cell, solver, inputs, weights, start, last, reset)
    if lengths is not None:
        state = torch.where((lengths == 0)[:, None, None], start, state)
    return mask(y.transpose(0, 1), lengths).to(x.dtype), state


class _Scan(torch.autograd.Function):
    """x (t, b, 3, d), W, start (b, m, d), last (b,) or None, reset (b, t) or None -> y (t, b, d), state (b, m, d)."""

    @staticmethod
    def forward(ctx, cell: Cell, solver: Solver, x: Tensor, W: Tensor, start: Tensor, last, reset):
        states = x.new_empty(len(x) + 1, *start.shape)
        states[0] = start
        solver.forward(Problem(cell, x, W, _resets(reset)), states)
        ctx.cell, ctx.solver = cell, solver
        ctx.save_for_backward(x, W, states, last, reset)
        return states[1:, :, cell.output].contiguous(), _at(states[1:], last).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gy: Tensor, g_state: Tensor):
        x, W, states, last, reset = ctx.saved_tensors
        cell, solver = ctx.cell, ctx.solver
        t, b, _, d = x.shape
        resets = _resets(reset)
        gx, gW = torch.empty_like(x), torch.zeros_like(W)
        g = x.new_zeros(t, b, cell.rows, d)
        g[:, :, cell.output] = gy
        _add_at(g, last, g_state)
        carried = torch.zeros_like(g_state)
        length = max(1, BLOCK_ELEMENTS.get(x.device.type, MOST) // (b * d))
        for i in reversed(range(0, t, length)):
            j = min(i + length, t)
            before = states[i:j]
            here = {k: resets[k] for k in range(i, j) if k in resets}
            if here:
                before = before.clone()
                for k, rows in here.items():
                    before[k - i].masked_fill_(rows, 0)
            linear = cell.linearize(x[i:j], W, before)
            for k, rows in here.items():
                linear.J[k - i].masked_fill_(rows.unsqueeze(1), 0)
            g[j - 1] += carried
            solver.backward(linear.J, g[i:j])
            carried = (linear.J[0] * g[i].unsqueeze(2)).sum(1)
            gW += linear.pull(g[i:j], gx[i:j])
        return None, None, gx, gW, carried, None, None


def _resets(reset: Tensor | None) -> dict[int, Tensor]:
    if reset is None:
        return {}
    rows = reset.T[..., None, None]  # (t, b, 1, 1)
    return {k: rows[k] for k, some in enumerate(reset.any(0).tolist()) if some}


def _at(states: Tensor, last: Tensor | None) -> Tensor:
    """Return the states (b, m, d) after step `last` (b,) of each row; None: after the last step."""
    if last is None:
        return states[-1]
    return states[last, torch.arange(len(last), device=last.device)]


def _add_at(g: Tensor, last: Tensor | None, g_state: Tensor) -> None:
    if last is None:
        g[-1] += g_state
    else:
        g[last, torch.arange(len(last), device=last.device)] += g_state
