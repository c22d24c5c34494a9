"""How the state matrices of linear systems begin: HiPPO (Gu et al., arXiv 2008.07669, 2206.12037) and S4D (2206.11893).

The system is  x' = A x + B u  with a real state x (N,).  A HiPPO matrix makes x the coefficients of the input's past in a basis:

    legs    Legendre polynomials over all of the past, exponentially warped; N of them
    legt    Legendre polynomials over a window that slides
    fout    Fourier modes over a window that slides

They are scaled so that 1 / dt is the mean delay of all three in steps, as in state-spaces/s4.  The window of legt and fout is
therefore 2 / dt steps.

A HiPPO matrix is normal but for a low-rank term: A = S - sum_i P_i P_i^T.  `normal_form` diagonalizes S, whose eigenvalues come
in conjugate pairs, and keeps one of each pair.  S4D drops the low-rank term, or takes other eigenvalues altogether.

All is computed in float64 and does not depend on the LAPACK: the phase of an eigenvector is fixed.
Shapes: N states, n = N / 2 pairs, r rank.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from samba_asr.errors import UserError

LARGEST_DT = 0.1
"""Largest initial dt of oscillating states.  At N = 32 and dt log-uniform from 0.001, 2 to 6 % of the modes turn by more than
half a circle in a step with dt up to 0.1, and 20 to 26 % with dt up to 1."""


class Matrices(NamedTuple):
    """A linear system as HiPPO defines it."""

    A: Tensor  # (N, N)
    B: Tensor  # (N,)
    P: Tensor  # (r, N): A + sum_i P_i P_i^T is a multiple of the identity plus a skew-symmetric matrix


class NormalForm(NamedTuple):
    """The same system in the basis V: z = V^* x, x = 2 Re(V z), one of each conjugate pair."""

    A: Tensor  # (n,) complex; imaginary parts rise in absolute value and are not positive
    B: Tensor  # (n,) complex, V^* B: real and not negative
    P: Tensor  # (r, n) complex, V^* P
    V: Tensor  # (N, n) complex, orthonormal columns


def legs(N: int) -> Matrices:
    """Return HiPPO-LegS.  A is lower triangular with the eigenvalues -1 .. -N; rank 1."""
    k = torch.arange(N, dtype=torch.float64)
    scale = (2 * k + 1).sqrt()
    A = -torch.tril(torch.outer(scale, scale), -1) - torch.diag(k + 1)
    return Matrices(A, scale, (k + 0.5).sqrt()[None])


def legt(N: int) -> Matrices:
    """Return HiPPO-LegT, scaled by one half (module docstring); rank 2."""
    k = torch.arange(N, dtype=torch.float64)
    scale = (2 * k + 1).sqrt()
    above = k[:, None] < k
    sign = torch.where(above, (-1.0) ** (k[:, None] - k).abs(), 1.0)
    odd = k % 2 == 1
    P = torch.stack([scale.where(odd, 0), scale.where(~odd, 0)]) / math.sqrt(2)
    return Matrices(-0.5 * sign * torch.outer(scale, scale), 0.5 * scale, P)


def fout(N: int) -> Matrices:
    """Return HiPPO-FouT: states 2f and 2f + 1 are cosine and sine of frequency f, and nothing moves state 1.  Rank 1."""
    frequency = math.pi * torch.arange(N // 2, dtype=torch.float64)
    A = torch.zeros(N, N, dtype=torch.float64)
    cosine = torch.arange(0, N, 2)
    A[cosine, cosine + 1], A[cosine + 1, cosine] = -frequency, frequency
    B = torch.zeros(N, dtype=torch.float64)
    B[0], B[2::2] = 1, math.sqrt(2)
    return Matrices(A - torch.outer(B, B), B, B[None])


HIPPO = {"legs": legs, "legt": legt, "fout": fout}


def hippo(name: str, N: int) -> NormalForm:
    """Return the normal form of a HiPPO matrix by name; UserError for another name or an odd N."""
    if name not in HIPPO:
        raise UserError(f"model.mixer.init={name}: there are {', '.join(HIPPO)}")
    return normal_form(HIPPO[name](_even(N)))


def normal_form(system: Matrices) -> NormalForm:
    """Diagonalize A + sum_i P_i P_i^T.  (2111.00396, theorem 1)"""
    A, B, P = system
    N = len(B)
    S = A + P.T @ P
    mean = S.diagonal().mean()
    skew = (S - S.T) / 2
    frequency, vectors = torch.linalg.eigh(-1j * skew.to(torch.complex128))  # ascending, and -f for each f
    frequency, vectors = frequency[: N // 2].flip(0), vectors[:, : N // 2].flip(1)
    if not A.is_meta and frequency[0].abs() < 1e-9 * (
        1 + frequency[-1].abs()
    ):  # a double zero, whose eigenvectors any LAPACK may mix
        frequency[0], vectors[:, 0] = 0, _null_vector(vectors[:, 1:], B)
    b = vectors.mH @ B.to(vectors.dtype)
    vectors = vectors * (b / b.abs())
    forms = vectors.mH @ torch.cat([B[None], P]).T.to(vectors.dtype)  # (n, 1 + r)
    return NormalForm(torch.complex(mean.expand(N // 2), frequency), forms[:, 0], forms[:, 1:].T, vectors)


def _null_vector(others: Tensor, B: Tensor) -> Tensor:
    """Return (N,) the vector (v + i w) / sqrt 2, v and w real and orthogonal to `others` (N, n - 1), v along B."""
    rest = torch.eye(len(B), dtype=torch.float64) - 2 * (others @ others.mH).real
    v = rest @ B
    v = v / v.norm()
    rest = rest - torch.outer(v, v)
    w = rest[:, rest.diagonal().argmax()]
    return torch.complex(v, w / w.norm()) / math.sqrt(2)


# ---- diagonal systems ------------------------------------------------------------------------------------------------


DIAGONAL = ("lin", "inv", "legs", "real")


def diagonal(name: str, N: int) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues and B of an S4D system by name; UserError for another name or an odd number of complex states.

    lin, inv, legs: (n,) complex.  real: (N,) real, -1 .. -N: the eigenvalues of HiPPO-LegS, with which Mamba begins.
    """
    if name not in DIAGONAL:
        raise UserError(f"model.mixer.init={name}: there are {', '.join(DIAGONAL)}")
    if name == "real":
        return -torch.arange(1, N + 1, dtype=torch.float64), torch.ones(N, dtype=torch.float64)
    if name == "legs":
        A, B, _, _ = hippo("legs", N)
        return A, B
    k = torch.arange(_even(N) // 2, dtype=torch.float64)
    frequency = math.pi * k if name == "lin" else N / math.pi * (N / (2 * k + 1) - 1)
    return torch.complex(torch.full_like(k, -0.5), frequency), torch.ones(N // 2, dtype=torch.complex128)


def _even(N: int) -> int:
    if N < 2 or N % 2:
        raise UserError(f"model.mixer.d_state={N}: complex states come in pairs, give an even number")
    return N
