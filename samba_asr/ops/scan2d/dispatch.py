"""The two-dimensional scan, and the choice of its backend."""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.errors import UserError
from samba_asr.ops.scan2d.naive import scan2d_naive
from samba_asr.ops.scan2d.wave import scan2d_wave

BACKENDS = {"naive": scan2d_naive, "wave": scan2d_wave}


def scan2d(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    mix: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run the selective state space model over time and bands of Chimera (arXiv 2406.04320), in a stable form:

        h1[t, v] = r1 ((1 - m1) h1[t-1, v] + m1 h2[t-1, v]) + dt1 x B1        along time
        h2[t, v] = r2 (m2 h1[t, v-1] + (1 - m2) h2[t, v-1]) + dt2 x B2        along bands; nothing enters at v = 0
        y[t, v]  = C1 . h1 + C2 . h2                                          r = exp(dt A), all of cell (t, v)

    The paper has four decays, r1 (1 - m1), r1 m1, r2 m2 and r2 (1 - m2) here, each free in (0, 1).  With all four at 0.9, 60
    steps of 20 bands reach 2e14: the paths through the plane add up.  Here |h| <= max |input| / (1 - max r).

    for b rows, t time steps (t may be 0), v bands, h heads of p channels, n states per channel, g groups of h / g heads.

    x (b, t, v, h, p).  dt (b, t, v, 2, h) positive, A (2, h) negative, mix (2, h) in [0, 1]: along time, along bands.
    B and C (b, t, v, 2, g, n): the heads of a group share them.
    initial_state (b, 2, v, h, n, p): h1 and h2 before the first step; zeros if None.
    lengths (b,), integers: past lengths[b] the state does not move, y is 0 and no gradient flows, whatever the padding
        holds, NaN included.
    backend: "auto" or one of BACKENDS.

    Returns y (b, t, v, h, p) in the dtype of x, and the state (b, 2, v, h, n, p) after each row's last valid step: a row of
    length 0 gets its initial state back.  States and sums are float64 if any input is, else float32: pass the state on as it is
    returned.  Scanning pieces of time with the state carried over equals scanning the whole.
    Differentiable once in every float argument, and through the final state.
    """
    b, t, v, h, p = x.shape
    if B.dim() != 6 or h % B.shape[4]:
        raise ValueError(f"scan2d: B has shape {tuple(B.shape)}, expected (b, t, v, 2, g, n) with {h} a multiple of g")
    g, n = B.shape[4:]
    shapes = {
        "dt": (dt, (b, t, v, 2, h)),
        "A": (A, (2, h)),
        "mix": (mix, (2, h)),
        "B": (B, (b, t, v, 2, g, n)),
        "C": (C, (b, t, v, 2, g, n)),
        "initial_state": (initial_state, (b, 2, v, h, n, p)),
        "lengths": (lengths, (b,)),
    }
    for name, (value, shape) in shapes.items():
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"scan2d: {name} has shape {tuple(value.shape)}, expected {shape} (from x and B)")
    if backend == "auto":
        backend, _ = choose(x.device, x.dtype, t)
    if backend not in BACKENDS:
        raise UserError(f"scan2d has no backend {backend!r}: use 'auto' or one of {', '.join(BACKENDS)}")
    return BACKENDS[backend](x, dt, A, mix, B, C, initial_state=initial_state, lengths=lengths)


def choose(device: torch.device, dtype: torch.dtype, t: int) -> tuple[str, str]:
    """Return the backend for t steps of this dtype on this device, and the reason."""
    return "wave", "diagonals of time and bands, a loop over these instead of over cells"
