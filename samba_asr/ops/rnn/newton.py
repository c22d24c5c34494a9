"""ParaRNN's cells by Newton's method, parallel in time, for GPUs (Danieli et al., arXiv 2510.21450, section 3).

All steps of a window are unknowns of one system, s_t - f(s_{t-1}, x_t) = 0.  Newton's method solves it:

    r_t = f(s_{t-1}, x_t) - s_t        e_t = J_t e_{t-1} + r_t        s_t <- s_t + e_t

The linear recurrence of e is a reduction of depth log2(window), which also computes the gradients.

The number of iterations depends on the weights, and a fixed number is wrong without a sign: with weights uniform in [0, 8] three
iterations over 400 steps are off by 1e114.  So the residual r decides, and three facts bound the work:

- The system is lower triangular: an iteration makes at least one more step exact, from any guess and with any J.  Steps are
  locked as soon as their residual, and that of all steps before, is within the tolerance.  A window of q steps therefore needs
  at most q iterations.  J may even be limited, as it is here, so that the products of many remain finite.
- The states lie in a box, |s| <= max(1, |s_0|), to which every iterate is clamped.
- Weights as they begin, and as they are after training, need 3 to 5 iterations, however long the window.

So the whole sequence is tried first.  If it is not solved after `WINDOW` iterations, windows of as many steps follow, from the
last step that is solved.  Tests compare it on a CPU, where it is slower than the loop; its speed on a GPU is not measured.
Shapes: t time, b rows, d channels, m rows of a state, l steps of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.ops.rnn.cells import ParaGru, ParaLstm
from samba_asr.ops.rnn.scan import Problem, scan

WINDOW = 16
"""Steps of a window, and most iterations of a longer one.  Of recurrent weights with variance 4, 400 steps are not solved after
60 iterations; 16 steps need 12."""

REDUCED = 64
"""Steps that one reduction of the adjoint spans: the products of J over these must be finite."""

TOLERANCE = 4
"""Largest residual of a solved step, in units of the dtype's rounding and of max(1, |s|).  Convergence is quadratic, so a looser
one would save an iteration at most; but where |J| > 1, the steps after it multiply it."""


class Newton:
    """Solve the states by Newton's method, and the adjoint by the same reduction.

    iterations: of each window in the last forward pass, the whole sequence first.
    """

    def __init__(self):
        self.iterations: list[int] = []

    def forward(self, problem: Problem, states: Tensor) -> None:
        t = len(problem.x)
        self.iterations, done, window = [], 0, t
        while done < t:
            end = min(done + window, t)
            here = {k - done: rows for k, rows in problem.resets.items() if done <= k < end}
            part = problem._replace(x=problem.x[done:end], resets=here)
            solved, iterations = _solve(part, states[done : end + 1])
            self.iterations.append(iterations)
            done, window = done + solved, WINDOW

    def backward(self, J: Tensor, g: Tensor) -> None:
        reverse = g.flip(0)
        back = torch.cat([torch.zeros_like(J[:1]), J[1:].transpose(2, 3).flip(0)])  # from the step after to this one
        carried = torch.zeros_like(g[:1])
        for i in range(0, len(g), REDUCED):
            step, part = back[i : i + REDUCED], reverse[i : i + REDUCED]
            part = torch.cat([part[:1] + _times(step[:1], carried), part[1:]])
            reverse[i : i + REDUCED] = part = recurrence(step, part)
            carried = part[-1:]
        g.copy_(reverse.flip(0))


def _solve(problem: Problem, states: Tensor) -> tuple[int, int]:
    """Solve a window into states[1:] of states (l + 1, b, m, d), after states[0].

    Return how many of its steps are solved, from the first on (all l, if l <= WINDOW), and the number of iterations.
    """
    cell, x, W, resets = problem
    start, length = states[:1], len(x)
    if 0 in resets:
        start = start.masked_fill(resets[0], 0)
    box = start.abs().clamp(min=1)
    steepest = torch.finfo(x.dtype).max ** (0.5 / WINDOW)
    s = cell.linearize(x, W, torch.zeros_like(states[1:])).value
    iterations = 0
    while True:
        value, J, _ = cell.linearize(x, W, _cleared(torch.cat([start, s[:-1]]), resets))
        residual = value - s
        close = residual.abs() <= TOLERANCE * torch.finfo(x.dtype).eps * s.abs().clamp(min=1)
        locked = close.all(2, keepdim=True).cummin(0).values  # (l, b, 1, d)
        solved = int(locked.flatten(1).all(1).sum())
        if solved == length or iterations == min(length, WINDOW):
            states[1:] = s
            return (solved if length > WINDOW else length), iterations
        J = _cleared(J, resets).clamp(-steepest, steepest)
        e = recurrence(J, residual.masked_fill(locked, 0)).nan_to_num()  # a long window may overflow
        s = torch.clamp(s + e, -box, box)
        iterations += 1


def recurrence(J: Tensor, x: Tensor) -> Tensor:
    """Return y_t = J_t y_{t-1} + x_t with y_{-1} = 0, for J (l, b, m, m, d) and x (l, b, m, d), in log2(l) steps.

    After each step y sums over twice as many terms, and J is the product over as many steps; one that would begin before the
    first step is zero.
    """
    J = torch.cat([torch.zeros_like(J[:1]), J[1:]])
    n = 1
    while n < len(x):
        x = torch.cat([x[:n], x[n:] + _times(J[n:], x[:-n])])
        J = torch.cat([torch.zeros_like(J[:n]), (J[n:].unsqueeze(4) * J[:-n].unsqueeze(2)).sum(3)])
        n *= 2
    return x


def _times(J: Tensor, x: Tensor) -> Tensor:
    return (J * x.unsqueeze(2)).sum(3)


def _cleared(v: Tensor, resets: dict[int, Tensor]) -> Tensor:
    """Zero the steps of v (l, b, ...) where rows are reset."""
    if not resets:
        return v
    v = v.clone()
    for k, rows in resets.items():
        v[k].masked_fill_(rows.view(-1, *[1] * (v.dim() - 2)), 0)
    return v


def para_gru_newton(
    x: Tensor,
    A: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    solver: Newton | None = None,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.para_gru` for the contract.  First derivatives only."""
    start = None if initial_state is None else initial_state[:, None]
    y, state = scan(ParaGru(), solver or Newton(), x, (A,), start, lengths, reset)
    return y, state[:, 0]


def para_lstm_newton(
    x: Tensor,
    A: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    solver: Newton | None = None,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.para_lstm` for the contract.  First derivatives only."""
    return scan(ParaLstm(), solver or Newton(), x, (A, C), initial_state, lengths, reset)
