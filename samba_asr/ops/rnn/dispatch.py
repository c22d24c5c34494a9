"""ParaRNN's scans, and the choice of their backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from samba_asr.errors import UserError
from samba_asr.ops.rnn.loop import para_gru_loop, para_lstm_loop
from samba_asr.ops.rnn.naive import para_gru_naive, para_lstm_naive
from samba_asr.ops.rnn.newton import WINDOW, para_gru_newton, para_lstm_newton

GRU_BACKENDS = {"naive": para_gru_naive, "loop": para_gru_loop, "newton": para_gru_newton}
LSTM_BACKENDS = {"naive": para_lstm_naive, "loop": para_lstm_loop, "newton": para_lstm_newton}


def para_gru(
    x: Tensor,
    A: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run ParaRNN's gated recurrent unit (arXiv 2510.21450): recurrent weights are diagonal, so its Jacobian is too.

        z = sigmoid(A_0 h_{t-1} + x_0)    r = sigmoid(A_1 h_{t-1} + x_1)    c = tanh(A_2 (r h_{t-1}) + x_2)
        h_t = h_{t-1} + z (c - h_{t-1})    y_t = h_t

    for b rows of t time steps (t may be 0) and d channels.  |h_t| <= max(1, |h_0|).

    x (b, t, 3, d): inputs of the update gate z, the reset gate r and the candidate c, biases included.  A (3, d).
    initial_state (b, d): h before the first step; zeros if None.
    lengths (b,), integers: past lengths[b] the state does not move, y is 0 and no gradient flows, whatever the padding
        holds, NaN included.
    reset (b, t), bool: where True, the row's state is cleared just before that step.
    backend: "auto" or one of GRU_BACKENDS.

    Returns y (b, t, d) in the dtype of x, and the state (b, d) after each row's last valid step: a row of length 0 gets its
    initial state back.  States are float64 if any input is, else float32: pass the state on as it is returned.  Scanning pieces
    of time with the state carried over equals scanning the whole.  Differentiable once in every float argument, and through
    the final state.
    """
    b, t, _, d = x.shape
    _check(
        "para_gru",
        x,
        A,
        {"initial_state": (initial_state, (b, d)), "lengths": (lengths, (b,)), "reset": (reset, (b, t))},
    )
    run = _backend("para_gru", GRU_BACKENDS, backend, x)
    return run(x, A, initial_state=initial_state, lengths=lengths, reset=reset)


def para_lstm(
    x: Tensor,
    A: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run ParaRNN's long short-term memory with coupled input and forget gates (arXiv 2510.21450); see `para_gru`.

        f = sigmoid(A_0 h_{t-1} + C_0 c_{t-1} + x_0)        g = tanh(A_2 h_{t-1} + x_2)
        c_t = f c_{t-1} + (1 - f) g
        o = sigmoid(A_1 h_{t-1} + C_1 c_t + x_1)            h_t = o tanh(c_t)    y_t = h_t

    x (b, t, 3, d): inputs of the forget gate f, the output gate o and the candidate g.  A (3, d), peepholes C (2, d).
    initial_state, and the state that is returned: (b, 2, d), c and h.
    """
    b, t, _, d = x.shape
    others = {"initial_state": (initial_state, (b, 2, d)), "lengths": (lengths, (b,)), "reset": (reset, (b, t))}
    _check("para_lstm", x, A, {"C": (C, (2, d)), **others})
    run = _backend("para_lstm", LSTM_BACKENDS, backend, x)
    return run(x, A, C, initial_state=initial_state, lengths=lengths, reset=reset)


def choose(device: torch.device, dtype: torch.dtype, t: int) -> tuple[str, str]:
    """Return the backend for t steps of this dtype on this device, and the reason."""
    if device.type == "cuda" and t > WINDOW:
        if torch.cuda.is_current_stream_capturing():
            return "loop", "a CUDA graph is recorded: Newton's method would wait for its residual"
        return "newton", "Newton's method over all steps at once: a GPU waits for the calls of a loop"
    if t <= 2:
        return "naive", "one or two steps: a loop over them needs no setup"
    return "loop", "a loop of a few calls a step, its gradient written by hand"


def _backend(
    op: str, known: dict[str, Callable[..., Any]], name: str, x: Tensor
) -> Callable[..., tuple[Tensor, Tensor]]:
    if name == "auto":
        name = choose(x.device, x.dtype, x.shape[1])[0]
    if name not in known:
        raise UserError(f"{op} has no backend {name!r}: use 'auto' or one of {', '.join(known)}")
    return known[name]


def _check(op: str, x: Tensor, A: Tensor, others: dict[str, tuple[Tensor | None, tuple[int, ...]]]) -> None:
    b, t, _, d = x.shape
    for name, (value, shape) in {"x": (x, (b, t, 3, d)), "A": (A, (3, d)), **others}.items():
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{op}: {name} has shape {tuple(value.shape)}, expected {shape} (from x)")
