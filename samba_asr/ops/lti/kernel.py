"""S4's kernel as its paper computes it, and the system as a dense matrix: two other ways to the same numbers.

`lti` needs neither.  They show what a layer does to an impulse, and the tests compare `lti` with them.

Shapes: N real states, n = N / 2 pairs, r rank, L steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.ops.lti.system import System


def bilinear(A: Tensor, B: Tensor, dt: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return Abar (N, N) and Bbar (N,) of x' = A x + B u under the bilinear rule with step dt, as dense matrices."""
    eye = torch.eye(len(B), dtype=A.dtype, device=A.device)
    left = eye - dt / 2 * A
    return torch.linalg.solve(left, eye + dt / 2 * A), torch.linalg.solve(left, dt * B)


def dense(system: System, group: int) -> tuple[Tensor, Tensor]:
    """Return A (m, m) and B (m,) of a group on its whole state, both of each pair: m = 2 n, or n if A is real."""
    A, B, _, _, P = system
    matrix, vector = torch.diag(_whole(A[group])), _whole(B[group])
    if P is not None:
        low = _whole(P[:, group])  # (r, m)
        matrix = matrix - torch.einsum("ri,rj->ij", low, low.conj())
    return matrix, vector


def kernel(system: System, length: int) -> Tensor:
    """Return (d, L): the response of each channel to 1, 0, 0, .., by the Cauchy kernel (2111.00396, algorithm 1).

    The generating function of the truncated kernel is evaluated at the L-th roots of unity, where the bilinear rule turns the
    resolvent of a diagonal plus low-rank matrix into Cauchy products and an r x r inverse (Woodbury), and inverted by an FFT.
    At omega = -1, for even L, 1 + omega is 0 and the limit stands in its place.
    """
    channels = len(system.C) // len(system.A)  # of a group
    return torch.stack([_cauchy(system, k // channels, _whole(C), length) for k, C in enumerate(system.C)])


def _cauchy(system: System, group: int, C: Tensor, length: int) -> Tensor:
    dt = system.dt[group]
    A, (matrix, B) = _whole(system.A[group]), dense(system, group)
    P = C.new_zeros(0, len(B)) if system.P is None else _whole(system.P[:, group])
    step, _ = bilinear(matrix, B, dt)
    short = C - C @ torch.linalg.matrix_power(step, length)  # C~: what lies beyond L is taken off
    k = torch.arange(length, dtype=dt.dtype, device=dt.device)
    omega = torch.polar(torch.ones_like(k), -2 * torch.pi * k / length)  # complex, also for a real A
    singular = 2 * k == length
    plus = torch.where(singular, 1, 1 + omega)  # any number but 0
    s = 2 / dt * (1 - omega) / plus
    kind = omega.dtype
    cauchy = (1 / (s[:, None] - A.to(kind))).to(kind)  # (L, m)
    left = torch.cat([short[None], P.conj()]).to(kind)  # (1 + r, m)
    right = torch.cat([B[None], P]).to(kind)
    products = torch.einsum("im,lm,jm->lij", left, cauchy, right)  # (L, 1 + r, 1 + r)
    inner = torch.eye(len(P), dtype=kind, device=dt.device) + products[:, 1:, 1:]
    low = torch.linalg.solve(inner, products[:, 1:, :1])
    value = 2 / plus * (products[:, 0, 0] - (products[:, :1, 1:] @ low)[:, 0, 0])
    value = torch.where(singular, dt / 2 * (short.to(kind) * B.to(kind)).sum(), value)
    return torch.fft.ifft(value).real


def _whole(v: Tensor) -> Tensor:
    """Return both of each pair, (.., 2 n); real values as they are."""
    return torch.cat([v, v.conj()], -1) if v.is_complex() else v
