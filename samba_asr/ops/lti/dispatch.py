"""The time-invariant state space models, and the choice of their backend."""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.errors import UserError
from samba_asr.ops.lti.chunk import lti_chunk
from samba_asr.ops.lti.naive import lti_naive
from samba_asr.ops.lti.system import Prepared, System
from samba_asr.ops.precision import accumulation_dtype
from samba_asr.streaming import mask

BACKENDS = {"naive": lti_naive, "chunk": lti_chunk}


def lti(
    x: Tensor,
    system: System | Prepared,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run S4 (arXiv 2111.00396) or S4D (2206.11893), discretized by the bilinear rule, on b rows of t steps (t may be 0):

        z_t = Abar z_{t-1} + Bbar x_t        y_t = 2 Re(C z_t)

    for each of d channels, with N real states z, that is N / 2 complex ones.  `system.py` writes Abar and Bbar out.

    x (b, t, d).  system: the channels' parameters; a `Prepared` one brings the matrices of chunks that it has computed.
    initial_state (b, d, N): z before the first step, real parts, then imaginary parts; zeros if None.
    lengths (b,), integers: past lengths[b] the state does not move, y is 0 and no gradient flows, whatever the padding
        holds, NaN included.
    reset (b, t), bool: where True, the row's state, NaN included, is cleared just before that step.
    backend: "auto" or one of BACKENDS.

    Returns y (b, t, d) in the dtype of x, and the state (b, d, N) after each row's last valid step: a row of length 0
    gets its initial state back.  States and sums are float64 if any input is, else float32.
    Differentiable in every float argument, and through the final state.
    """
    prepared = system if isinstance(system, Prepared) else Prepared(system)
    own = prepared.system
    b, t, d = x.shape
    g, n = own.A.shape
    _check("dt", own.dt, (g,))
    _check("B", own.B, (g, n))
    _check("C", own.C, (d, n))
    _check("P", own.P, (len(own.P) if own.P is not None else 0, g, n))
    _check("initial_state", initial_state, (b, d, own.states))
    _check("lengths", lengths, (b,))
    _check("reset", reset, (b, t))
    if g == 0 or d % g:
        raise ValueError(f"lti: {d} channels are not whole groups of the {g} systems")
    name = choose(x.device, x.dtype, t)[0] if backend == "auto" else backend
    if name not in BACKENDS:
        raise UserError(f"lti has no backend {name!r}: use 'auto' or one of {', '.join(BACKENDS)}")
    dtype = accumulation_dtype(x, own.dt, initial_state)
    if own.dt.dtype != dtype:
        prepared = Prepared(own.to(dtype))
    if initial_state is None:
        initial_state = x.new_zeros(b, d, own.states, dtype=dtype)
    with torch.autocast(x.device.type, enabled=False):
        u, before = mask(x, lengths).to(dtype), initial_state.to(dtype)
        ends = None if lengths is None or _whole_or_idle(lengths, t) else lengths
        y, state = BACKENDS[name](u, prepared, before, lengths=ends, reset=reset)
        if lengths is not None:
            state = torch.where((lengths == 0)[:, None, None], before, state)
    return mask(y, lengths).to(x.dtype), state


def choose(device: torch.device, dtype: torch.dtype, t: int) -> tuple[str, str]:
    """Return the backend for t steps of this dtype on this device, and the reason."""
    return "chunk", "chunks of time as matrix products, a loop over chunks instead of over steps"


def _whole_or_idle(lengths: Tensor, t: int) -> bool:
    """Return whether each row has all t steps or none, as live rows do: it needs no state inside a chunk.

    False on a GPU, where looking costs more than it saves.
    """
    return lengths.device.type == "cpu" and set(lengths.tolist()) <= {0, t}


def _check(name: str, value: Tensor | None, shape: tuple[int, ...]) -> None:
    if value is not None and tuple(value.shape) != shape:
        raise ValueError(f"lti: {name} has shape {tuple(value.shape)}, expected {shape} (from x and A)")
