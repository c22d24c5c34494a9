"""The SSD scan, and the choice of its backend."""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.errors import UserError
from samba_asr.ops import rows
from samba_asr.ops.device import hint, require_triton, wants_triton
from samba_asr.ops.ssd.chunk import ssd_chunk
from samba_asr.ops.ssd.naive import ssd_naive


def _triton(x: Tensor, *args, **named) -> tuple[Tensor, Tensor]:
    require_triton(x, "SSD")
    from samba_asr.ops.ssd.triton import ssd_triton

    return ssd_triton(x, *args, **named)


BACKENDS = {"naive": ssd_naive, "chunk": ssd_chunk, "triton": _triton}


def choose(device: torch.device, dtype: torch.dtype, t: int) -> tuple[str, str]:
    """Return the backend for these inputs, and the reason in words (`samba-asr doctor` prints it)."""
    if why := wants_triton(device, dtype):
        return "triton", why
    return "chunk", "matrix products inside chunks" + hint(device)


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run the SSD scan (Mamba-2): h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T,  y_t = h_t C_t.

    Args:
        x: (b, t, h, p) inputs, h heads of p channels.
        dt: (b, t, h) step sizes, positive (after softplus).
        A: (h,) negative decay rates.
        B, C: (b, t, g, n) input and output maps; head i uses group i // (h / g).
        initial_state: (b, h, p, n), default zeros.
        lengths: (b,) valid steps.  After them the state does not move and y is 0, whatever the padding holds, NaN included.
        offsets: (r + 1,), for r packed rows, end to end in x of b = 1: row i is steps offsets[i] to offsets[i + 1].  States
            then have r rows.  Not together with `lengths`.
        reset: (b, t) bool; True: the state is cleared before this step.  Earlier steps must still be finite, because inside a
            chunk they are multiplied by 0.
        backend: "auto" or one of BACKENDS.

    Returns y (b, t, h, p) and the state after the last valid step (b, h, p, n).  Differentiable in every tensor, in
    `initial_state` and through the final state.  A row of length 0 returns its initial state bit for bit.
    """
    if backend == "auto":
        backend, _ = choose(x.device, x.dtype, x.shape[1])
    if backend not in BACKENDS:
        raise UserError(f"unknown SSD backend {backend!r}; there are: auto, {', '.join(BACKENDS)}")
    in_time, fused = {"x": x, "dt": dt, "B": B, "C": C, "reset": reset}, backend == "triton"
    others = {"A": A, "initial_state": initial_state}
    return rows.run(BACKENDS[backend], in_time, lengths=lengths, offsets=offsets, takes_offsets=fused, **others)
