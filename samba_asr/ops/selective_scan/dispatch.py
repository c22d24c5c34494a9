"""The selective scan, and the choice of its backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.errors import UserError
from samba_asr.ops import rows
from samba_asr.ops.device import hint, require_triton, wants_triton
from samba_asr.ops.selective_scan.chunk import selective_scan_chunk
from samba_asr.ops.selective_scan.naive import selective_scan_naive
from samba_asr.streaming import mask


def _triton(x: Tensor, *args, **named) -> tuple[Tensor, Tensor]:
    require_triton(x, "selective scan")
    from samba_asr.ops.selective_scan.triton import selective_scan_triton

    return selective_scan_triton(x, *args, **named)


BACKENDS = {"naive": selective_scan_naive, "chunk": selective_scan_chunk, "triton": _triton}


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    A_imag: Tensor | None = None,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run the selective state space model of Mamba (arXiv 2312.00752, eq. 2a-b; zero-order hold for A, Euler for B):

        h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t        y_t = C_t . h_t + D x_t

    for b rows of t time steps (t may be 0), d channels, n states per channel.

    x (b, t, d), dt (b, t, d) positive, A (d, n) negative, B and C (b, t, n), D (d,).
    A_imag (d, n / 2): the states are complex.  A and A_imag, (d, n / 2), are the parts of their exponents; the last axes of
        B, C and the states hold n / 2 real parts, then as many imaginary ones; and y_t = 2 Re(C_t . h_t) + D x_t.
        Not in Triton.
    dt_bias (d,): dt may have any sign, and softplus(dt + dt_bias) replaces it above.
    z (b, t, d): y is multiplied by silu(z).
    initial_state (b, d, n): h before the first step; zeros if None.
    lengths (b,), integers: past lengths[b] the state does not move, y is 0 and no gradient flows, whatever the padding
        holds, NaN included.
    offsets (r + 1,), for r packed rows, end to end in x of b = 1: row i is steps offsets[i] to offsets[i + 1].  States then
        have r rows.  Not together with `lengths`.
    reset (b, t), bool: where True, the row's state, NaN included, is cleared just before that step.
    backend: "auto" or one of BACKENDS.

    Returns y (b, t, d) in the dtype of x, and the state (b, d, n) after each row's last valid step: a row of length 0
    gets its initial state back.  States and sums are float64 if any input is, else float32, even when x is bfloat16: pass
    the state on as it is returned.  Scanning pieces of time with the state carried over equals scanning the whole.
    Differentiable once in every float argument, and through the final state.
    """
    b, t, d = x.shape
    n = B.shape[-1]
    _check("dt", dt, (b, t, d))
    _check("A", A, (d, n if A_imag is None else n // 2))
    _check("A_imag", A_imag, (d, n // 2))
    _check("B", B, (b, t, n))
    _check("C", C, (b, t, n))
    _check("D", D, (d,))
    _check("z", z, (b, t, d))
    _check("dt_bias", dt_bias, (d,))
    _check("initial_state", initial_state, (b if offsets is None else len(offsets) - 1, d, n))
    _check("lengths", lengths, (b,))
    _check("reset", reset, (b, t))
    name = choose(x.device, x.dtype, t, A_imag is not None)[0] if backend == "auto" else backend
    if name not in BACKENDS:
        raise UserError(f"selective scan has no backend {name!r}: use 'auto' or one of {', '.join(BACKENDS)}")
    if name == "triton" and A_imag is not None:
        raise UserError("selective scan: backend 'triton' has no complex states: use backend 'chunk'")
    others = {"A": A, "D": D, "initial_state": initial_state}
    if name == "triton":
        in_time = {"x": x, "dt": dt, "B": B, "C": C, "z": z, "reset": reset}
        where = {"lengths": lengths, "offsets": offsets, "takes_offsets": True}
        return rows.run(_triton, in_time, **where, dt_bias=dt_bias, **others)
    if dt_bias is not None:
        dt = F.softplus(mask(dt, lengths).to(dt_bias.dtype) + dt_bias)
    others["A_imag"] = A_imag
    in_time = {"x": x, "dt": dt, "B": B, "C": C, "reset": reset}
    y, state = rows.run(BACKENDS[name], in_time, lengths=lengths, offsets=offsets, takes_offsets=False, **others)
    return (y if z is None else y * F.silu(mask(z, lengths))), state


def choose(device: torch.device, dtype: torch.dtype, t: int, complex: bool = False) -> tuple[str, str]:
    """Return the backend for t steps of this dtype on this device, with complex states or real ones, and the reason."""
    if not complex and (why := wants_triton(device, dtype)):
        return "triton", why
    if t <= 2:
        return "naive", "one or two steps: a loop over them needs no setup"
    return "chunk", "chunks of time side by side, a loop over chunks instead of over steps" + hint(device)


def _check(name: str, value: Tensor | None, shape: tuple[int, ...]) -> None:
    if value is not None and tuple(value.shape) != shape:
        raise ValueError(f"selective_scan: {name} has shape {tuple(value.shape)}, expected {shape} (from x and A)")
