"""A time-invariant state space model for each channel, diagonal plus low rank, and its discretization.

    x' = (A - sum_i P_i P_i^*) x + B u        y = C x                                  (arXiv 2111.00396, section 3)

A is diagonal.  Its eigenvalues are in the left half-plane, and come in conjugate pairs of which one is kept: z, n of them, and
every product with a whole state is 2 Re of that with z.  A, B, C may be real instead; then z is the whole state.
The low-rank term never adds energy (Goel et al., arXiv 2202.09729), and the bilinear rule keeps that: a step is a contraction,
whatever the parameters.

Shapes: g groups (heads), h channels of a group, d = g h channels; N real states, n = N / 2 pairs (or N); r rank; q steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class System(NamedTuple):
    """The systems of a layer.  The channels of a group share all but C."""

    A: Tensor  # (g, n) complex or real, real part below 0
    B: Tensor  # (g, n)
    C: Tensor  # (d, n)
    dt: Tensor  # (g,) step
    P: Tensor | None = None  # (r, g, n); None: diagonal

    @property
    def states(self) -> int:
        """Number of real states of a channel."""
        return self.A.shape[-1] * (2 if self.A.is_complex() else 1)

    def to(self, dtype: torch.dtype) -> System:
        """Return the system in a real dtype, float32 or float64."""
        kind = (torch.complex128 if dtype == torch.float64 else torch.complex64) if self.A.is_complex() else dtype
        A, B, C, dt, P = self
        return System(A.to(kind), B.to(kind), C.to(kind), dt.to(dtype), None if P is None else P.to(kind))


class Discrete(NamedTuple):
    """A system under the bilinear rule.

    The low-rank term is a feedback of r numbers, s = P^* x, of which a step uses the mean before and after it:

        w = a z + b u        f = (2 I + K)^-1 (s_before + P^* w)        z = w - p f        s = P^* w - K f
    """

    a: Tensor  # (g, n)
    b: Tensor  # (g, n)
    p: Tensor | None  # (r, g, n)
    K: Tensor | None  # (g, r, r) P^* p
    inverse: Tensor | None  # (g, r, r) of 2 I + K


def discretize(system: System) -> Discrete:
    """Apply the bilinear rule: it maps every frequency below the Nyquist frequency, so nothing aliases.

    No divisor is small: |1 - dt A / 2| is at least 1, and 2 I + K has no eigenvalue with a real part below 2.
    """
    A, B, _, dt, P = system
    half = dt[:, None] / 2 * A
    g = 1 / (1 - half)
    a, b = (1 + half) * g, dt[:, None] * g * B
    if P is None:
        return Discrete(a, b, None, None, None)
    p = dt[:, None] * g * P
    K = twice(A) * torch.einsum("ign,jgn->gij", P.conj(), p).real
    eye = torch.eye(len(P), dtype=dt.dtype, device=dt.device)
    return Discrete(a, b, p, K, torch.linalg.inv(2 * eye + K))


def twice(z: Tensor) -> int:
    """Return by what a real part is multiplied: 2 for one of a pair, 1 for a real state."""
    return 2 if z.is_complex() else 1


def as_real(z: Tensor, dim: int = -1) -> Tensor:
    """Return states, (.., n, ..) complex, as (.., N, ..) real: all real parts, then all imaginary parts."""
    return torch.cat([z.real, z.imag], dim) if z.is_complex() else z


def as_complex(x: Tensor, like: Tensor) -> Tensor:
    """Return states (.., N) as (.., n), complex if `like` is."""
    return torch.complex(*x.chunk(2, -1)) if like.is_complex() else x


def as_row(v: Tensor, dim: int = -1) -> Tensor:
    """Return the real vector, (.., N, ..), whose product with `as_real(z)` is the whole product of v with the state."""
    return 2 * torch.cat([v.real, -v.imag], dim) if v.is_complex() else v


# ---- chunks of q steps -----------------------------------------------------------------------------------------------


class Closed(NamedTuple):
    """q steps at once, as matrices on inputs u (q,) and states x (N,), feedback included:  y = K u + R x,  x' = W u + M x."""

    K: Tensor  # (g, h, q, q) lower triangular, constant along diagonals
    R: Tensor  # (g, h, q, N)
    W: Tensor  # (g, N, q)
    M: Tensor  # (g, N, N)


class Prepared:
    """A system with the matrices of its chunks, each computed when it is first needed.

    The matrices depend on the parameters alone.  Where gradients are off, a layer keeps this object as long as they last.
    """

    def __init__(self, system: System):
        self.system = system
        self._closed: dict[int, Closed] = {}
        self._powers: list[Tensor] = []

    def closed(self, q: int) -> Closed:
        """Return the matrices of q steps."""
        if q not in self._closed:
            self._closed[q] = close(self.system, q)
        return self._closed[q]

    def power(self, i: int) -> Tensor:
        """Return (g, N, N): 2 ** i steps without input."""
        powers = self._powers or [close(self.system, 1).M]
        while len(powers) <= i:
            powers = [*powers, powers[-1] @ powers[-1]]
        self._powers = powers
        return powers[i]


def close(system: System, q: int) -> Closed:
    """Compute the matrices of q steps from the powers of the diagonal.

    As a system with the inputs (u, f) and the outputs (y, s), the recurrence of `Discrete` is diagonal.  Its feedback inside a
    chunk is one triangular solve:  2 f_i = s_(i-1) + s_i  with  s = (Toeplitz matrices) u - (..) f + (..) x.
    """
    a, b, p, K, _ = discretize(system)
    g, n = a.shape
    C = system.C.view(g, -1, n)
    powers = _powers(a, q)  # (g, n, q + 1)
    early, late = powers[..., :q], powers[..., 1:]
    rows, from_b = as_row(C), as_real(b[..., None] * early, -2)
    Kcb = rows @ from_b  # (g, h, q)
    R = as_row(C[..., None] * late[:, None], -2).mT  # (g, h, q, N)
    W = as_real(b[..., None] * early.flip(-1), -2)  # (g, N, q)
    M = _diagonal(powers[..., q])
    P = system.P
    if P is None or p is None or K is None:
        return Closed(toeplitz(Kcb), R, W, M)
    r = len(P)
    P, p = P.transpose(0, 1), p.transpose(0, 1)  # (g, r, n)
    seen = as_row(P.conj())  # (g, r, N)
    from_p = as_real(p[..., None] * early[:, None], -2)  # (g, r, N, q)
    Kcp = rows[:, None] @ from_p  # (g, r, h, q)
    Kpb = seen @ from_b  # (g, r, q)
    Kpp = seen[:, None] @ from_p  # (g, r of f, r of s, q)
    Op = as_row(P.conj()[..., None] * late[:, None], -2).mT  # (g, r, q, N): s after each step, from x
    before = torch.cat([seen[:, :, None], Op[:, :, :-1]], 2)  # s before each step
    # the unknowns f are ordered by time, then by r
    T = toeplitz(_mean(Kpp)).permute(0, 3, 2, 4, 1).reshape(g, q * r, q * r)
    T = T + torch.eye(q * r, dtype=T.dtype, device=T.device)
    known = torch.cat([toeplitz(_mean(Kpb)), (Op + before) / 2], -1)  # (g, r, q, q + N)
    known = known.transpose(1, 2).reshape(g, q * r, -1)
    f = torch.linalg.solve_triangular(T, known, upper=False) if r == 1 else torch.linalg.solve(T, known)
    f = f.view(g, q, r, -1).transpose(1, 2)  # (g, r, q, q + N)
    f_u, f_x = f.split([q, f.shape[-1] - q], -1)
    taken = toeplitz(Kcp)  # (g, r, h, q, q)
    K_first = Kcb - (taken @ f_u[:, :, None, :, :1]).sum(1)[..., 0]
    R = R - (taken @ f_x[:, :, None]).sum(1)
    W_p = as_real(p[..., None] * early[:, None].flip(-1), -2)  # (g, r, N, q)
    return Closed(toeplitz(K_first), R, W - (W_p @ f_u).sum(1), M - (W_p @ f_x).sum(1))


def _powers(a: Tensor, q: int) -> Tensor:
    """Return a^0 .. a^q, (g, n, q + 1), by doubling: exp(k log a) would lose the phase of a high frequency."""
    found, square = torch.ones_like(a)[..., None], a[..., None]
    while found.shape[-1] <= q:
        found, square = torch.cat([found, found * square], -1), square * square
    return found[..., : q + 1]


def _diagonal(a: Tensor) -> Tensor:
    """Return (g, N, N), the product with a (g, n) as a real matrix on `as_real` states."""
    if not a.is_complex():
        return torch.diag_embed(a)
    re, im = torch.diag_embed(a.real), torch.diag_embed(a.imag)
    return torch.cat([torch.cat([re, -im], -1), torch.cat([im, re], -1)], -2)


def _mean(k: Tensor) -> Tensor:
    """Return the mean of each element of k (.., q) and the one before it, 0 before the first."""
    return (k + F.pad(k, (1, 0))[..., :-1]) / 2


def toeplitz(k: Tensor) -> Tensor:
    """Return (.., q, q) with k[i - j] in row i and column j, 0 above the diagonal.

    Rows of k and q zeros, end to end and read 2 q - 1 at a time, move right by one each time: no index, whose gradient is a
    slow scatter-add.
    """
    q = k.shape[-1]
    line = F.pad(k, (0, q))[..., None, :].expand(*k.shape[:-1], q, 2 * q).flatten(-2)
    return line[..., : q * (2 * q - 1)].unflatten(-1, (q, 2 * q - 1))[..., :q].mT
