"""ParaRNN's cells in a loop of a few calls a step, in place, with the hand-written adjoint of scan.py: the fast way on a CPU."""

from __future__ import annotations

from torch import Tensor

from samba_asr.ops.rnn.cells import ParaGru, ParaLstm
from samba_asr.ops.rnn.scan import Problem, scan


class Loop:
    """Solve both recurrences step by step."""

    def forward(self, problem: Problem, states: Tensor) -> None:
        cell, x, W, resets = problem
        step = cell.steps(W, x.shape[1])
        before, *after = states.unbind()
        for k, (inputs, state) in enumerate(zip(x.unbind(), after, strict=True)):
            step(inputs, before.masked_fill(resets[k], 0) if k in resets else before, state)
            before = state

    def backward(self, J: Tensor, g: Tensor) -> None:
        steps = g.unbind()
        rows = range(g.shape[2])
        slopes = [J[:, :, i].unbind() for i in rows]  # (b, m, d) for each row i of the state after
        parts = [g[:, :, i : i + 1].unbind() for i in rows]  # (b, 1, d)
        for k in range(len(steps) - 1, 0, -1):
            for i in rows:
                steps[k - 1].addcmul_(slopes[i][k], parts[i][k])


def para_gru_loop(
    x: Tensor,
    A: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.para_gru` for the contract.  First derivatives only."""
    start = None if initial_state is None else initial_state[:, None]
    y, state = scan(ParaGru(), Loop(), x, (A,), start, lengths, reset)
    return y, state[:, 0]


def para_lstm_loop(
    x: Tensor,
    A: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `dispatch.para_lstm` for the contract.  First derivatives only."""
    return scan(ParaLstm(), Loop(), x, (A, C), initial_state, lengths, reset)
