"""The two-dimensional scan: naive.py is the definition, by hand and by finite differences; the wavefront agrees with it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.errors import UserError
from samba_asr.ops.scan2d import BACKENDS, choose, scan2d, wave
from samba_asr.ops.scan2d.naive import scan2d_naive
from samba_asr.ops.scan2d.wave import scan2d_wave
from samba_asr.ops.ssd import ssd
from tests.ops.checks import assert_agree, assert_close, padding, values_and_gradients

every_backend = pytest.mark.parametrize("backend", BACKENDS)
IN_TIME = ("x", "dt", "B", "C")


def make(b=3, t=5, v=4, h=2, p=3, g=1, n=2, *, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)  # noqa: E731
    return {
        "x": randn(b, t, v, h, p),
        "dt": F.softplus(randn(b, t, v, 2, h) - 1),
        "A": -randn(2, h).exp(),
        "mix": randn(2, h).sigmoid(),
        "B": randn(b, t, v, 2, g, n),
        "C": randn(b, t, v, 2, g, n),
        "initial_state": randn(b, 2, v, h, n, p),
    }


def poison(inputs, lengths):
    behind = padding(inputs["x"].shape[1], lengths)
    fill = lambda v: v.masked_fill(behind.view(*behind.shape, *[1] * (v.dim() - 2)), float("nan"))  # noqa: E731
    return {name: fill(v) if name in IN_TIME else v for name, v in inputs.items()}


@pytest.fixture(params=[1, 200, 1 << 18], ids=["a diagonal a block", "small blocks", "real blocks"])
def block_elements(request, monkeypatch):
    monkeypatch.setattr(wave, "BLOCK_ELEMENTS", request.param)


# --- the definition


@every_backend
def test_three_steps_of_three_bands(backend):
    """Decays 0.5, 0.25 along time and 0.2, 0.4 along bands; x enters h1 whole and h2 by half.  Numbers of a double loop."""
    x = torch.tensor([[1.0, 0, 2], [0, -1, 1], [0.5, 2, 0]], dtype=torch.float64)
    h1 = [[1, 0, 2], [0.625, -0.9, 2.29], [0.8125, 1.45625, 1.1875]]
    h2 = [[0.5, 0.4, 1.16], [0, -0.375, 0.17], [0.25, 1.2625, 0.79625]]
    one = torch.ones(1, 3, 3, 2, 1, dtype=torch.float64)
    for C, want in (([1.0, 0.0], h1), ([0.0, 1.0], h2), ([1.0, -1.0], torch.tensor(h1) - torch.tensor(h2))):
        y, state = scan2d(
            x.view(1, 3, 3, 1, 1),
            one,
            torch.tensor([[math.log(0.75)], [math.log(0.6)]], dtype=torch.float64),
            torch.tensor([[1 / 3], [1 / 3]], dtype=torch.float64),
            (one * torch.tensor([[1.0], [0.5]]))[..., None],
            (one * torch.tensor(C)[:, None])[..., None],
            backend=backend,
        )
        torch.testing.assert_close(y[0, :, :, 0, 0], torch.as_tensor(want, dtype=torch.float64))
    torch.testing.assert_close(state.flatten(), torch.tensor([*h1[2], *h2[2]], dtype=torch.float64))


@every_backend
@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_match_finite_differences(backend, ragged):
    inputs = make(b=2, t=3, v=3, h=2, p=1, g=2, n=1)
    lengths = torch.tensor([3, 1]) if ragged else None

    def op(*values):
        return scan2d(**dict(zip(inputs, values, strict=True)), lengths=lengths, backend=backend)

    assert torch.autograd.gradcheck(op, [v.requires_grad_() for v in inputs.values()])


@every_backend
def test_without_mixing_it_is_a_scan_along_time_and_one_along_bands(backend):
    inputs = {**make(b=2, t=6, v=5, g=2), "mix": torch.zeros(2, 2, dtype=torch.float64), "initial_state": None}
    y, _ = scan2d(**inputs, backend=backend)
    x, dt, A, B, C = (inputs[name] for name in ("x", "dt", "A", "B", "C"))
    time_first = lambda v: v.transpose(1, 2).flatten(0, 1)  # noqa: E731  bands as rows
    along_time, _ = ssd(
        *(time_first(v) for v in (x, dt[:, :, :, 0])), A[0], *(time_first(v[:, :, :, 0]) for v in (B, C))
    )
    along_bands, _ = ssd(
        *(v.flatten(0, 1) for v in (x, dt[:, :, :, 1])), A[1], *(v[:, :, :, 1].flatten(0, 1) for v in (B, C))
    )
    want = along_time.unflatten(0, (2, 5)).transpose(1, 2) + along_bands.unflatten(0, (2, 6))
    torch.testing.assert_close(y, want)


@settings(max_examples=20, deadline=None)
@given(largest=st.floats(0.5, 0.999), mix=st.floats(0, 1), seed=st.integers(0, 99))
def test_states_are_bounded_by_input_and_decay(largest, mix, seed):
    """|h| <= max |input| / (1 - max r), whatever the mixing."""
    stays_bounded(300, 7, largest, mix, seed)


def test_states_are_bounded_for_ever():
    stays_bounded(10_000, 4, largest=0.999, mix=0.3, seed=0)


def stays_bounded(t, v, largest, mix, seed):
    rng = torch.Generator().manual_seed(seed)
    r = largest * torch.rand(1, t, v, 2, 1, generator=rng, dtype=torch.float64).clamp(min=1e-3).sqrt()
    r[0, :, :, :, 0] = torch.where(torch.rand(t, v, 2, generator=rng) < 0.5, largest, r[0, :, :, :, 0])
    dt = -r.log()
    inputs = 2 * torch.rand(1, t, v, 2, 1, 1, generator=rng, dtype=torch.float64) - 1  # of h1 and h2
    ones = torch.ones(1, t, v, 1, 1, dtype=torch.float64)
    A, mix = -torch.ones(2, 1, dtype=torch.float64), torch.full((2, 1), mix, dtype=torch.float64)
    for row in (0, 1):
        C = torch.zeros_like(inputs)
        C[:, :, :, row] = 1
        y, _ = scan2d(ones, dt, A, mix, inputs / dt[..., None], C)
        assert y.abs().max() <= 1 / (1 - largest) + 1e-9


# --- the wavefront is the definition


@pytest.mark.parametrize(("t", "v"), [(0, 3), (1, 1), (1, 4), (5, 1), (2, 5), (5, 2), (7, 4)])
def test_the_wavefront_agrees_with_naive(t, v, block_elements, poisoned_empty):
    for groups in (1, 2):
        for lengths in (None, torch.tensor([t, 0, t // 2])):
            inputs = make(t=t, v=v, h=4, g=groups)
            assert_agree(scan2d_wave, scan2d_naive, inputs, tolerance=1e-12, lengths=lengths)


def test_in_float32():
    assert_agree(scan2d_wave, scan2d_naive, make(t=30, v=6, dtype=torch.float32), tolerance=1e-5)


def test_a_gradient_through_the_final_state_alone():
    def final(op):
        return lambda **inputs: op(**inputs)[1]

    assert_agree(final(scan2d_wave), final(scan2d_naive), make(), tolerance=1e-12)


def test_the_initial_state_may_be_left_out():
    assert_agree(scan2d_wave, scan2d_naive, {**make(), "initial_state": None}, tolerance=1e-12)


@every_backend
def test_bfloat16_is_summed_in_float32_and_autocast_changes_nothing(backend):
    inputs = make(dtype=torch.bfloat16)

    def run():
        return values_and_gradients(scan2d, inputs, backend=backend)

    want = run()
    with torch.autocast("cpu", torch.bfloat16):
        got = run()
    assert all(torch.equal(got[name], want[name]) for name in want)
    y, state = scan2d(**inputs, backend=backend)
    exact_y, exact_state = scan2d_naive(**{k: v.double() for k, v in inputs.items()})
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert_close({"state": state}, {"state": exact_state}, 1e-5)
    assert_close({"y": y}, {"y": exact_y}, 2**-8)


# --- state and lengths


@every_backend
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 4), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_carrying_the_state_over_cuts_equals_the_whole(backend, cuts, seed):
    def in_pieces(initial_state, A, mix, **in_time):
        ys, state, i = [], initial_state, 0
        for size in cuts:
            piece = {name: v[:, i : i + size] for name, v in in_time.items()}
            y, state = scan2d(**piece, A=A, mix=mix, initial_state=state, backend=backend)
            ys.append(y)
            i += size
        return torch.cat(ys, dim=1), state

    assert_agree(in_pieces, scan2d_naive, make(t=sum(cuts), seed=seed), tolerance=1e-12)


@every_backend
def test_each_row_is_as_if_alone_and_padding_may_hold_nan(backend):
    lengths, inputs = torch.tensor([7, 2, 0, 5]), make(b=4, t=7)
    y, state = scan2d(**poison(inputs, lengths), lengths=lengths, backend=backend)
    for row, length in enumerate(lengths):
        alone = {k: v[row : row + 1, :length] if k in IN_TIME else v for k, v in inputs.items()}
        alone["initial_state"] = inputs["initial_state"][row : row + 1]
        want_y, want_state = scan2d_naive(**alone)
        assert_close(
            {"y": y[row : row + 1, :length], "state": state[row : row + 1]}, {"y": want_y, "state": want_state}, 1e-12
        )
        assert not y[row, length:].any()
    assert torch.equal(state[2], inputs["initial_state"][2])  # length 0: bit for bit


@every_backend
def test_gradients_at_padding_are_zero_and_clean(backend):
    lengths, inputs = torch.tensor([5, 2, 0]), make()
    behind = padding(5, lengths)
    want = values_and_gradients(scan2d_naive, inputs, lengths=lengths)
    got = values_and_gradients(scan2d, poison(inputs, lengths), lengths=lengths, backend=backend)
    assert_close(got, want, 1e-12)
    for name in IN_TIME:
        assert not got[f"gradient of {name}"][behind].any()


# --- the choice


def test_errors():
    assert choose(torch.device("cpu"), torch.float32, 1)[0] == "wave"
    inputs = make()
    with pytest.raises(UserError, match="scan2d has no backend 'loop': use 'auto' or one of naive, wave"):
        scan2d(**inputs, backend="loop")
    for name in ("dt", "A", "mix", "C", "initial_state"):
        with pytest.raises(ValueError, match=f"scan2d: {name} has shape"):
            scan2d(**{**inputs, name: inputs[name][..., :1]})
    with pytest.raises(ValueError, match="with 2 a multiple of g"):
        scan2d(**{**inputs, "B": inputs["B"].expand(-1, -1, -1, -1, 3, -1)})
