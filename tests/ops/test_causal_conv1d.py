"""The causal convolution with state, ragged lengths and resets: a loop is the definition, the fast one agrees."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.errors import UserError
from samba_asr.ops.conv1d import causal, causal_conv1d, causal_conv1d_naive
from tests.ops.checks import (
    assert_agree,
    assert_close,
    every_backend,
    padding,
    some_resets,
    values_and_gradients,
    where_it_runs,
)

EVERY_VERSION = pytest.mark.parametrize("op", [causal_conv1d, causal_conv1d_naive])


def make(b=3, t=17, d=3, k=4, *, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)  # noqa: E731
    return {"x": randn(b, t, d), "weight": randn(d, k), "bias": randn(d), "initial_state": randn(b, k - 1, d)}


def valid_only(op, lengths):
    """y behind the valid steps is unspecified: hide it before comparing."""

    def run(**inputs):
        y, state = op(**inputs)
        return y.masked_fill(padding(y.shape[1], lengths)[..., None], 0), state

    return run


@EVERY_VERSION
def test_it_is_torchs_convolution(op):
    inputs = make()
    y, state = op(inputs["x"], inputs["weight"], inputs["bias"])
    want = F.conv1d(F.pad(inputs["x"].mT, (3, 0)), inputs["weight"][:, None], inputs["bias"], groups=3).mT
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(state, inputs["x"][:, -3:])


@EVERY_VERSION
@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_match_finite_differences(op, ragged):
    inputs = make(b=2, t=5, d=2, k=3)
    lengths = torch.tensor([5, 2])
    options = {"lengths": lengths, "reset": some_resets(2, 5)} if ragged else {}
    compared = valid_only(op, lengths) if ragged else op

    def run(*values):
        return compared(**dict(zip(inputs, values, strict=True)), **options)

    assert torch.autograd.gradcheck(run, [v.requires_grad_() for v in inputs.values()])


@pytest.mark.parametrize("t", [0, 1, 2, 3, 17])
@pytest.mark.parametrize("k", [1, 2, 4, 9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_naive(t, k, dtype, poisoned_empty):
    inputs = make(t=t, k=k, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    lengths = torch.tensor([t, 0, t // 2])
    assert_agree(causal_conv1d, causal_conv1d_naive, inputs, tolerance=tolerance)
    assert_agree(causal_conv1d, causal_conv1d_naive, inputs, tolerance=tolerance, reset=some_resets(3, t))
    fast, naive = valid_only(causal_conv1d, lengths), valid_only(causal_conv1d_naive, lengths)
    for options in ({"lengths": lengths}, {"lengths": lengths, "reset": some_resets(3, t)}):
        assert_agree(fast, naive, inputs, tolerance=tolerance, **options)


@every_backend(["triton"])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("t", "k", "d"), [(17, 4, 3), (35, 1, 70), (2, 4, 1), (1, 9, 3), (0, 4, 3)])
def test_the_kernel_agrees_with_naive(t, k, d, silu, backend, poisoned_empty):
    lengths = torch.tensor([t, 0, t // 2])

    def naive(**inputs):
        y, state = causal_conv1d_naive(**inputs)
        return (F.silu(y) if silu else y), state

    inputs = make(t=t, k=k, d=d, dtype=torch.float32)
    fast = where_it_runs(partial(causal_conv1d, silu=silu), backend)
    assert_agree(fast, naive, inputs, tolerance=3e-5)
    assert_agree(valid_only(fast, lengths), valid_only(naive, lengths), inputs, tolerance=3e-5, lengths=lengths)


def test_silu_is_applied_to_the_outcome():
    y, state = causal_conv1d(**make())
    smooth, same = causal_conv1d(**make(), silu=True)
    assert torch.equal(smooth, F.silu(y))
    assert torch.equal(same, state)


def test_the_kernel_says_what_it_does_not_know():
    inputs = make(dtype=torch.float32)
    with pytest.raises(UserError, match="'triton' supports no reset"):
        causal_conv1d(**inputs, reset=some_resets(3, 17), backend="triton")
    with pytest.raises(UserError, match="no backend 'cuda'"):
        causal_conv1d(**inputs, backend="cuda")


@pytest.mark.parametrize("name", ["bias", "initial_state"])
def test_optional_inputs_may_be_left_out(name):
    assert_agree(causal_conv1d, causal_conv1d_naive, {**make(), name: None}, tolerance=1e-12)


def test_a_reset_at_every_step_leaves_the_last_tap_alone():
    inputs = make()
    y, state = causal_conv1d(**inputs, reset=torch.ones(3, 17, dtype=torch.bool))
    torch.testing.assert_close(y, inputs["x"] * inputs["weight"][:, -1] + inputs["bias"])
    want = torch.zeros_like(state)
    want[:, -1] = inputs["x"][:, -1]
    assert torch.equal(state, want)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 6), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_carrying_the_state_over_cuts_equals_the_whole(cuts, seed):
    t = sum(cuts)
    inputs, reset = make(t=t, seed=seed), some_resets(3, t, seed)

    def in_pieces(x, weight, bias, initial_state):
        ys, state, i = [], initial_state, 0
        for size in cuts:
            piece = slice(i, i + size)
            y, state = causal_conv1d(x[:, piece], weight, bias, initial_state=state, reset=reset[:, piece])
            ys.append(y)
            i += size
        return torch.cat(ys, dim=1), state

    def whole(**inputs):
        return causal_conv1d_naive(**inputs, reset=reset)

    assert_agree(in_pieces, whole, inputs, tolerance=1e-12)


@pytest.mark.parametrize("with_resets", [False, True])
def test_each_row_is_as_if_alone_and_padding_may_hold_nan(with_resets):
    lengths = torch.tensor([17, 5, 0, 1])
    inputs = make(b=4)
    behind = padding(17, lengths)
    inputs["x"] = inputs["x"].masked_fill(behind[..., None], float("nan"))
    reset = some_resets(4, 17) | behind if with_resets else None  # a reset in the padding must do nothing
    y, state = causal_conv1d(**inputs, lengths=lengths, reset=reset)
    for row, length in enumerate(lengths):
        one = slice(row, row + 1)
        want_y, want_state = causal_conv1d_naive(
            inputs["x"][one, :length],
            inputs["weight"],
            inputs["bias"],
            initial_state=inputs["initial_state"][one],
            reset=None if reset is None else reset[one, :length],
        )
        assert_close({"y": y[one, :length], "state": state[one]}, {"y": want_y, "state": want_state}, 1e-12)
    assert torch.equal(state[2], inputs["initial_state"][2])  # length 0: bit for bit


@pytest.mark.parametrize("with_resets", [False, True])
def test_gradients_at_padding_are_zero_and_clean(with_resets):
    lengths = torch.tensor([17, 5, 0])
    behind = padding(17, lengths)
    inputs, options = make(), {"lengths": lengths, "reset": some_resets(3, 17) if with_resets else None}
    poisoned = {**inputs, "x": inputs["x"].masked_fill(behind[..., None], float("nan"))}
    want = values_and_gradients(valid_only(causal_conv1d_naive, lengths), inputs, **options)
    got = values_and_gradients(valid_only(causal_conv1d, lengths), poisoned, **options)
    assert_close(got, want, 1e-12)
    assert not got["gradient of x"][behind].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_few_products_and_many_are_done_alike(dtype, monkeypatch):
    inputs = {name: v.to(dtype) for name, v in make().items()}
    found = []
    for few in (0, 1 << 30):
        monkeypatch.setattr(causal, "FEW", few)
        with torch.no_grad():
            found.append(causal_conv1d(**inputs))
    (y, state), (other, other_state) = found
    assert y.dtype == other.dtype
    torch.testing.assert_close(y, other)
    assert torch.equal(state, other_state)
