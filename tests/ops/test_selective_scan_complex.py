"""The selective scan with complex states: the definition by rotations, and the fast one that agrees with it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from samba_asr.errors import UserError
from samba_asr.ops.device import KERNELS
from samba_asr.ops.selective_scan import chunk, selective_scan
from samba_asr.ops.selective_scan.chunk import selective_scan_chunk
from samba_asr.ops.selective_scan.naive import selective_scan_naive
from tests.ops.checks import IN_TIME, assert_agree, assert_close, padding, some_resets, values_and_gradients


def make(b=3, t=17, d=3, m=2, *, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    return {
        "x": randn(b, t, d),
        "dt": torch.nn.functional.softplus(randn(b, t, d) - 1),
        "A": -torch.exp(randn(d, m)),
        "A_imag": 3 * randn(d, m),
        "B": randn(b, t, 2 * m),
        "C": randn(b, t, 2 * m),
        "D": randn(d),
        "initial_state": randn(b, d, 2 * m),
    }


@pytest.fixture(params=[1, 100, 1 << 19], ids=["one step a block", "small blocks", "real blocks"])
def block_elements(request, monkeypatch):
    monkeypatch.setattr(chunk, "BLOCK_ELEMENTS", request.param)


def options_of(t):
    lengths = torch.tensor([t, 0, t // 2])
    return {}, {"lengths": lengths}, {"reset": some_resets(3, t), "lengths": lengths}


@pytest.mark.parametrize("backend", ["naive", "chunk"])
def test_a_state_turns_and_decays(backend):
    """One channel with one pair: the plane turns by 0.5 pi dt and shrinks by exp(-2 dt); the input enters along B."""
    one = lambda *values: torch.tensor(values, dtype=torch.float64).view(1, -1, 1)  # noqa: E731
    pairs = lambda *values: torch.tensor(values, dtype=torch.float64).view(1, -1, 2)  # noqa: E731
    y, state = selective_scan(
        one(3, 1),
        one(1, 2),
        torch.tensor([[-2.0]], dtype=torch.float64),
        pairs((5, 0), (0, 1)),
        pairs((1, 0), (0, 1)),
        A_imag=torch.tensor([[math.pi / 2]], dtype=torch.float64),
        initial_state=torch.tensor([[[4.0, 6.0]]], dtype=torch.float64),
        backend=backend,
    )
    first = (math.exp(-2) * -6 + 15, math.exp(-2) * 4)  # a quarter turn: (re, im) -> (-im, re)
    second = (math.exp(-4) * -first[0], math.exp(-4) * -first[1] + 2)  # half a turn
    assert y.flatten().tolist() == pytest.approx([2 * first[0], 2 * -second[1]], abs=1e-12)
    assert state.flatten().tolist() == pytest.approx(second, abs=1e-12)


def test_without_rotation_it_is_twice_the_real_scan():
    inputs = make()
    real = {name: v[..., :2] if name in ("B", "C", "initial_state") else v for name, v in inputs.items()}
    for name in ("B", "C", "initial_state"):
        inputs[name][..., 2:] = 0
    y, state = selective_scan_naive(**{**inputs, "A_imag": torch.zeros(3, 2), "D": None})
    del real["A_imag"]
    want_y, want_state = selective_scan_naive(**{**real, "D": None})
    torch.testing.assert_close(y, 2 * want_y)
    torch.testing.assert_close(state[..., :2], want_state)
    assert not state[..., 2:].any()


@pytest.mark.parametrize("backend", ["naive", "chunk"])
@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_match_finite_differences(backend, ragged):
    inputs = make(b=2, t=4, d=2, m=1)
    options = {"lengths": torch.tensor([4, 2]), "reset": some_resets(2, 4, seed=3)} if ragged else {}

    def op(*values):
        return selective_scan(**dict(zip(inputs, values, strict=True)), **options, backend=backend)

    assert torch.autograd.gradcheck(op, [v.requires_grad_() for v in inputs.values()])


@pytest.mark.parametrize("t", [0, 1, 2, 17, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_naive(t, dtype, block_elements, poisoned_empty):
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for options in options_of(t):
        assert_agree(selective_scan_chunk, selective_scan_naive, make(t=t, dtype=dtype), tolerance=tolerance, **options)


@pytest.mark.parametrize("backend", ["naive", "chunk"])
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 7), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_carrying_the_state_over_cuts_equals_the_whole(backend, cuts, seed):
    t = sum(cuts)
    inputs, reset = make(t=t, seed=seed), some_resets(3, t, seed)

    def in_pieces(initial_state, A, A_imag, D, **in_time):
        ys, state, i = [], initial_state, 0
        for size in cuts:
            piece = {name: v[:, i : i + size] for name, v in {**in_time, "reset": reset}.items()}
            y, state = selective_scan(**piece, A=A, A_imag=A_imag, D=D, initial_state=state, backend=backend)
            ys.append(y)
            i += size
        return torch.cat(ys, dim=1), state

    assert_agree(in_pieces, lambda **inputs: selective_scan_naive(**inputs, reset=reset), inputs, tolerance=1e-12)


@pytest.mark.parametrize("backend", ["naive", "chunk"])
def test_padding_may_hold_nan(backend):
    lengths, inputs = torch.tensor([17, 5, 0]), make()
    behind = padding(17, lengths)
    poisoned = {k: v.masked_fill(behind[..., None], float("nan")) if k in IN_TIME else v for k, v in inputs.items()}
    want = values_and_gradients(selective_scan_naive, inputs, lengths=lengths)
    got = values_and_gradients(selective_scan, poisoned, lengths=lengths, backend=backend)
    assert_close(got, want, 1e-12)
    for name in IN_TIME:
        assert not got[f"gradient of {name}"][behind].any()
    assert torch.equal(got["output 1"][2], inputs["initial_state"][2])  # length 0: bit for bit


def test_no_complex_tensor_is_made():
    """complex64 is four times slower on a CPU."""

    class Note(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            found = op(*args, **(kwargs or {}))
            assert not (isinstance(found, torch.Tensor) and found.is_complex())
            return found

    with Note():
        values_and_gradients(selective_scan_chunk, make(dtype=torch.float32))


def test_the_kernels_step_aside(monkeypatch):
    monkeypatch.setenv(KERNELS, "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    inputs = make(dtype=torch.float32)
    assert_close(values_and_gradients(selective_scan, inputs), values_and_gradients(selective_scan_chunk, inputs), 1e-6)
    with pytest.raises(UserError, match="backend 'triton' has no complex states: use backend 'chunk'"):
        selective_scan(**inputs, backend="triton")
