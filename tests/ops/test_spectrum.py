"""HiPPO's matrices and S4D's eigenvalues: the papers' numbers, and what the states mean."""

from __future__ import annotations

import math

import pytest
import torch

from samba_asr.errors import UserError
from samba_asr.ops.lti.kernel import bilinear
from samba_asr.ops.spectrum import DIAGONAL, HIPPO, diagonal, hippo, legs, legt, normal_form


def close(got, want, atol=1e-9):
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), rtol=0, atol=atol)


def states(system, u, dt):
    """(t, N): the states of the system after each of the inputs u (t,)."""
    A, B = bilinear(system.A, system.B, dt)
    x, found = torch.zeros_like(B), []
    for value in u:
        x = A @ x + B * value
        found.append(x)
    return torch.stack(found)


# --- the matrices at N = 4


def test_legs():
    A, B, P = legs(4)
    close(
        A,
        [
            [-1, 0, 0, 0],
            [-1.7320508076, -2, 0, 0],
            [-2.2360679775, -3.8729833462, -3, 0],
            [-2.6457513111, -4.582575695, -5.9160797831, -4],
        ],
    )
    close(B, [1, 1.7320508076, 2.2360679775, 2.6457513111])
    close(P, [[0.7071067812, 1.2247448714, 1.5811388301, 1.8708286934]])


def test_legt():
    A, B, P = legt(4)
    close(
        A,
        [
            [-0.5, 0.8660254038, -1.1180339887, 1.3228756555],
            [-0.8660254038, -1.5, 1.9364916731, -2.2912878475],
            [-1.1180339887, -1.9364916731, -2.5, 2.9580398915],
            [-1.3228756555, -2.2912878475, -2.9580398915, -3.5],
        ],
    )
    close(B, [0.5, 0.8660254038, 1.1180339887, 1.3228756555])
    close(P, [[0, 1.2247448714, 0, 1.8708286934], [0.7071067812, 0, 1.5811388301, 0]])
    eigenvalues = torch.linalg.eigvals(A)
    order = eigenvalues.real.argsort()
    close(eigenvalues.real[order], [-2.3935965516, -2.3935965516, -1.6064034484, -1.6064034484])
    close(eigenvalues.imag[order].abs(), [0.7837382084, 0.7837382084, 2.3865437166, 2.3865437166])


def test_fout():
    A, B, P = HIPPO["fout"](4)
    root = math.sqrt(2)
    close(A, [[-1, 0, -root, 0], [0, 0, 0, 0], [-root, 0, -2, -math.pi], [0, 0, math.pi, 0]], atol=1e-15)
    close(B, [1, 0, root, 0])
    close(P, [[1, 0, root, 0]])


@pytest.mark.parametrize("N", [4, 8, 16])
def test_the_eigenvalues_of_legs_are_the_first_numbers(N):
    found = torch.linalg.eigvals(legs(N).A).real.sort(descending=True).values
    close(found, -torch.arange(1.0, N + 1), atol=1e-8)


# --- their normal forms


@pytest.mark.parametrize("name", HIPPO)
@pytest.mark.parametrize("N", [4, 8, 32, 64])
def test_the_normal_form_is_the_matrix_in_an_orthonormal_basis(name, N):
    system = HIPPO[name](N)
    A, B, P, V = normal_form(system)
    whole = torch.cat([V, V.conj()], 1)  # (N, N)
    close(whole.mH @ whole, torch.eye(N), atol=1e-12 * N)
    close(2 * (V * A @ V.mH).real, system.A + system.P.T @ system.P, atol=1e-12 * N)
    close(2 * (V @ B).real, system.B, atol=1e-12 * N)
    close(2 * (V @ P.T).real.T, system.P, atol=1e-12 * N)


@pytest.mark.parametrize("name", HIPPO)
def test_the_phase_of_an_eigenvector_is_no_accident(name):
    A, B, _, _ = hippo(name, 16)
    close(B.imag, torch.zeros(8), atol=1e-12)
    assert (B.real > 0).all()
    assert (A.imag <= 0).all()
    assert (A.imag.abs().diff() > 0).all()


def test_the_normal_form_of_legs():
    A, B, P, _ = hippo("legs", 4)
    close(A.real, [-0.5, -0.5])
    close(A.imag, [-0.556501115084, -4.603293007067], atol=1e-11)
    close(B.real, [0.966931169884, 2.658015070068], atol=1e-11)
    close(P[0].abs(), [0.683723587165, 1.879500480541], atol=1e-11)
    A, B, P, _ = hippo("legs", 8)
    close(A.imag, [-0.4274887123, -1.9577941509, -5.354208515, -19.857410371])
    close(B.abs(), [0.7994635875, 1.1749599473, 1.8438689105, 5.1556255232])
    close(P[0], B / math.sqrt(2))


@pytest.mark.parametrize(("N", "largest"), [(16, 80.966), (32, 325.426), (64, 1303.274)])
def test_the_largest_frequency_of_legs_grows_with_the_square_of_its_size(N, largest):
    assert hippo("legs", N).A.imag.abs().max().item() == pytest.approx(largest, abs=1e-3)


def test_the_normal_forms_of_windows_do_not_decay():
    close(hippo("legt", 4).A.imag, [-1.4222427447, -3.6023916465])
    close(hippo("fout", 8).A.imag, [0, -math.pi, -2 * math.pi, -3 * math.pi])
    for name in ("legt", "fout"):
        close(hippo(name, 16).A.real, torch.zeros(8), atol=1e-12)


# --- what the states mean


def test_the_mean_delay_of_legs_is_a_memory():
    first = states(legs(16), [1.0] + [0.0] * 1999, 0.01)[:, 0]
    assert first.sum().item() == pytest.approx(1, abs=1e-3)
    assert (first * torch.arange(2000)).sum().item() == pytest.approx(99.5, abs=0.5)


@pytest.mark.parametrize(
    ("name", "N", "squares"), [("legt", 32, (0.258, 0.152, 0.0015)), ("fout", 64, (0.220, 0.214, 0.023))]
)
def test_a_window_is_two_memories_wide(name, N, squares):
    basis = 100 * states(HIPPO[name](N), [1.0] + [0.0] * 399, 0.01)
    energy = basis.square().mean(1)
    for part, want in zip((energy[:100], energy[100:200], energy[200:]), squares, strict=True):
        assert part.mean().item() == pytest.approx(want, rel=0.05)


@pytest.mark.parametrize(("share", "delay"), [(0.25, 50), (0.5, 100)])
def test_legt_holds_the_past_of_its_window(share, delay):
    time = torch.arange(1000, dtype=torch.float64)
    u = (2 * math.pi * time / 80).sin() + (2 * math.pi * time / 47).sin() / 2
    k = torch.arange(32)
    legendre = torch.special.legendre_polynomial_p(torch.tensor(1 - 2 * share, dtype=torch.float64), k)
    y = states(legt(32), u, 0.01) @ ((2 * k + 1).sqrt() * legendre)
    assert (y[300:] - u[300 - delay : -delay]).abs().max() < 0.1


# --- diagonal systems


def test_the_eigenvalues_of_s4d():
    close(diagonal("inv", 4)[0].imag, [3.8197186342, 0.4244131816])
    close(diagonal("inv", 8)[0].imag, [17.8253536263, 4.2441318158, 1.5278874537, 0.3637827271])
    close(diagonal("lin", 8)[0].imag, [0, 3.1415926536, 6.2831853072, 9.4247779608])
    for name in ("lin", "inv", "legs"):
        close(diagonal(name, 8)[0].real, torch.full((4,), -0.5))
    close(diagonal("real", 4)[0], [-1, -2, -3, -4])
    close(diagonal("legs", 8)[1].abs(), hippo("legs", 8).B.abs())


@pytest.mark.parametrize("name", ["lin", "inv", "legs"])
def test_pairs_need_an_even_number_of_states(name):
    for N in (0, 3):
        with pytest.raises(UserError, match=f"d_state={N}: complex states come in pairs"):
            diagonal(name, N)
    assert len(diagonal("real", 3)[0]) == 3


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError, match=f"init=legz: there are {', '.join(HIPPO)}"):
        hippo("legz", 4)
    with pytest.raises(UserError, match=f"init=legt: there are {', '.join(DIAGONAL)}"):
        diagonal("legt", 4)
