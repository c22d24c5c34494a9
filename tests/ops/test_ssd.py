"""SSD, the scan of Mamba-2: naive.py is the definition, by hand and by finite differences; the chunks agree with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.errors import UserError
from samba_asr.ops.ssd import choose, ssd
from samba_asr.ops.ssd.chunk import ssd_chunk
from samba_asr.ops.ssd.dispatch import BACKENDS
from samba_asr.ops.ssd.naive import ssd_naive
from tests.ops.checks import (
    IN_TIME,
    assert_agree,
    assert_close,
    assert_is_a_good_custom_op,
    assert_packed_as_padded,
    every_backend,
    exact,
    padding,
    some_resets,
    values_and_gradients,
    where_it_runs,
)

EVERY_BACKEND = every_backend(BACKENDS)
FASTER = every_backend([name for name in BACKENDS if name != "naive"])


def make(b=3, t=17, h=4, p=3, g=2, n=5, *, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)  # noqa: E731
    return {
        "x": randn(b, t, h, p),
        "dt": torch.nn.functional.softplus(randn(b, t, h) - 1),
        "A": -torch.exp(randn(h)),
        "B": randn(b, t, g, n),
        "C": randn(b, t, g, n),
        "initial_state": randn(b, h, p, n),
    }


def poison(inputs, lengths):
    behind = padding(inputs["x"].shape[1], lengths)
    fill = lambda v: v.masked_fill(behind.view(*behind.shape, *[1] * (v.dim() - 2)), float("nan"))  # noqa: E731
    return {name: fill(v) if name in IN_TIME else v for name, v in inputs.items()}


def on(backend):
    return where_it_runs(ssd, backend)


def scan(*args, backend="auto", **named):
    return on(backend)(*args, **named)


# --- the definition


@EVERY_BACKEND
def test_two_steps_by_hand(backend):
    x, dt, A = torch.tensor([2.0, 3.0]), torch.tensor([0.5, 1.0]), torch.tensor([-1.0])
    B, C, h0 = torch.tensor([5.0, 6.0]), torch.tensor([7.0, 8.0]), torch.tensor(4.0)
    h1 = torch.exp(torch.tensor(-0.5)) * h0 + 0.5 * 2 * 5
    h2 = torch.exp(torch.tensor(-1.0)) * h1 + 1.0 * 3 * 6
    y, state = scan(
        x.view(1, 2, 1, 1),
        dt.view(1, 2, 1),
        A,
        B.view(1, 2, 1, 1),
        C.view(1, 2, 1, 1),
        initial_state=h0.view(1, 1, 1, 1),
        backend=backend,
    )
    torch.testing.assert_close(y.flatten(), torch.stack([7 * h1, 8 * h2]))
    torch.testing.assert_close(state.flatten(), h2[None])


@pytest.mark.parametrize("backend", ["naive", "chunk"])  # finite differences want float64
@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_match_finite_differences(backend, ragged):
    inputs = make(b=2, t=4, h=2, p=2, g=1, n=2)
    options = {"lengths": torch.tensor([4, 2]), "reset": some_resets(2, 4, seed=3)} if ragged else {}

    def op(*values):
        return scan(**dict(zip(inputs, values, strict=True)), **options, backend=backend)

    assert torch.autograd.gradcheck(op, [v.requires_grad_() for v in inputs.values()])


def test_each_group_of_heads_has_its_own_maps():
    inputs = make(h=4, g=2)
    y, state = scan(**inputs)
    for i in range(4):
        pick = slice(i, i + 1), slice(i // 2, i // 2 + 1)
        alone = {
            "x": inputs["x"][:, :, pick[0]],
            "dt": inputs["dt"][:, :, pick[0]],
            "A": inputs["A"][pick[0]],
            "B": inputs["B"][:, :, pick[1]],
            "C": inputs["C"][:, :, pick[1]],
            "initial_state": inputs["initial_state"][:, pick[0]],
        }
        want_y, want_state = ssd_naive(**alone)
        torch.testing.assert_close(y[:, :, pick[0]], want_y)
        torch.testing.assert_close(state[:, pick[0]], want_state)


# --- chunks are the definition


@pytest.mark.parametrize("chunk", [1, 3, 16, 32])
@pytest.mark.parametrize("t", [0, 1, 2, 17, 50])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_chunks_agree_with_naive(chunk, t, dtype, poisoned_empty):
    inputs = make(t=t, dtype=dtype)
    op = lambda **given: ssd_chunk(**given, chunk=chunk)  # noqa: E731
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    lengths = torch.tensor([t, 0, t // 2])
    for options in ({}, {"lengths": lengths}, {"reset": some_resets(3, t), "lengths": lengths}):
        assert_agree(op, ssd_naive, inputs, tolerance=tolerance, **options)


@every_backend(["triton"])
@pytest.mark.parametrize("t", [0, 1, 16, 32, 70])
def test_triton_agrees_with_naive(t, backend, poisoned_empty):
    inputs = make(t=t, dtype=torch.float32)
    lengths = torch.tensor([t, 0, t // 2])
    for options in ({}, {"lengths": lengths}, {"reset": some_resets(3, t), "lengths": lengths}):
        assert_agree(on(backend), ssd_naive, inputs, tolerance=2e-5, **options)


@every_backend(["triton"])
def test_triton_is_a_good_custom_op(backend):
    inputs, lengths = make(2, 5, 2, 2, 1, 2, dtype=torch.float32), torch.tensor([5, 2])
    named = {"lengths": lengths, "reset": some_resets(2, 5)}
    where = {"lengths": lengths, "offsets": None, "reset": named["reset"], "sizes": None}
    assert_is_a_good_custom_op(ssd, "ssd_forward", inputs, where, **named)


@FASTER
@pytest.mark.parametrize(("h", "p", "g", "n"), [(1, 1, 1, 1), (3, 2, 1, 4), (4, 1, 4, 3), (6, 5, 2, 17)])
def test_odd_sizes_agree(h, p, g, n, backend):
    dtype, tolerance = exact(backend)
    inputs = make(t=37, h=h, p=p, g=g, n=n, dtype=dtype)
    assert_agree(on(backend), ssd_naive, inputs, tolerance=tolerance, reset=some_resets(3, 37))


@FASTER
def test_the_initial_state_may_be_left_out(backend):
    dtype, tolerance = exact(backend)
    assert_agree(on(backend), ssd_naive, {**make(t=40, dtype=dtype), "initial_state": None}, tolerance=tolerance)


@FASTER
def test_a_gradient_through_the_final_state_alone(backend):
    def final(op):
        return lambda **inputs: op(**inputs)[1]

    dtype, tolerance = exact(backend)
    assert_agree(final(on(backend)), final(ssd_naive), make(t=40, dtype=dtype), tolerance=tolerance)


@FASTER
def test_bfloat16_is_close_and_its_state_is_float32(backend):
    inputs = make(t=100, dtype=torch.bfloat16)
    mixed = {**inputs, **{name: inputs[name].float() for name in ("dt", "A", "initial_state")}}  # as under autocast
    y, state = scan(**mixed, backend=backend)
    exact_y, exact_state = ssd_naive(**{k: v.double() for k, v in mixed.items()})
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert_close({"y": y, "state": state}, {"y": exact_y, "state": exact_state}, 0.02)


@EVERY_BACKEND
@pytest.mark.parametrize("size", [1e-8, 50.0, 1e4])
def test_extreme_steps_stay_finite(backend, size):
    inputs = make(t=60, dtype=torch.float32)
    for dt in (torch.full_like(inputs["dt"], size), torch.where(some_resets(3, 60)[..., None], size, inputs["dt"])):
        extreme = {**inputs, "dt": dt}
        found = values_and_gradients(scan, extreme, backend=backend)
        assert all(v.isfinite().all() for v in found.values())


@FASTER
@pytest.mark.parametrize("size", [1e-8, 10.0, 50.0, 1e3, 1e5])
def test_large_steps_among_small_ones_stay_accurate(size, backend):
    """A decay is the difference of two running sums: a large step must not cost the digits of the small ones in its chunk."""
    inputs = make(t=60, dtype=torch.float32)
    large = some_resets(3, 60)[..., None]
    inputs["x"] = torch.where(large[..., None], inputs["x"] / size, inputs["x"])  # what goes in is dt x
    inputs["dt"] = torch.where(large, size, inputs["dt"])
    got, want = (
        values_and_gradients(op, {k: v.to(kind) for k, v in inputs.items()})
        for op, kind in ((on(backend), torch.float32), (ssd_naive, torch.float64))
    )
    for name in ("gradient of x", "gradient of dt"):  # of small steps and of large ones, which differ in scale
        for some in (large, ~large):
            some = some.expand_as(want["gradient of dt"])
            assert_close({name: got[name][some]}, {name: want[name][some]}, 2e-4)
    others = got.keys() - {"gradient of x", "gradient of dt"}
    for name in others:  # that of A sums the rounding of all steps, times the steps
        assert_close({name: got[name]}, {name: want[name]}, 2e-3 if name == "gradient of A" else 2e-4)


def test_an_hour_of_frames_keeps_its_digits():
    single = make(b=1, t=1 << 16, h=2, p=1, g=1, n=2, dtype=torch.float32)
    assert_close(
        values_and_gradients(ssd_chunk, single),
        values_and_gradients(ssd_chunk, {name: v.double() for name, v in single.items()}),
        1e-5,
    )


# --- state, lengths, resets


@every_backend(["naive", "chunk"])
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 7), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_carrying_the_state_over_cuts_equals_the_whole(backend, cuts, seed):
    carried_equals_whole(backend, cuts, seed)


@every_backend(["triton"])
def test_triton_carries_the_state_over_cuts(backend):
    carried_equals_whole(backend, [3, 0, 34, 1], seed=0)


def carried_equals_whole(backend, cuts, seed):
    t, (dtype, tolerance) = sum(cuts), exact(backend)
    inputs, reset = make(t=t, seed=seed, dtype=dtype), some_resets(3, t, seed)

    def in_pieces(initial_state, A, **in_time):
        ys, state, i = [], initial_state, 0
        for size in cuts:
            piece = {name: v[:, i : i + size] for name, v in {**in_time, "reset": reset}.items()}
            y, state = scan(**piece, A=A, initial_state=state, backend=backend)
            ys.append(y)
            i += size
        return torch.cat(ys, dim=1), state

    def whole(**inputs):
        return ssd_naive(**inputs, reset=reset)

    assert_agree(in_pieces, whole, inputs, tolerance=tolerance)


@EVERY_BACKEND
def test_each_row_is_as_if_alone_and_padding_may_hold_nan(backend):
    lengths = torch.tensor([17, 5, 0, 12])
    dtype, tolerance = exact(backend)
    inputs = poison(make(b=4, dtype=dtype), lengths)
    reset = some_resets(4, 17) | padding(17, lengths)  # a reset in the padding must do nothing
    y, state = scan(**inputs, lengths=lengths, reset=reset, backend=backend)
    for row, length in enumerate(lengths):
        alone = {k: v[row : row + 1, :length] if k in IN_TIME else v for k, v in inputs.items()}
        alone["initial_state"] = inputs["initial_state"][row : row + 1]
        want_y, want_state = ssd_naive(**alone, reset=reset[row : row + 1, :length])
        got = {"y": y[row : row + 1, :length], "state": state[row : row + 1]}
        assert_close(got, {"y": want_y, "state": want_state}, tolerance)
        assert not y[row, length:].any()
    assert torch.equal(state[2], inputs["initial_state"][2])  # length 0: bit for bit


@EVERY_BACKEND
def test_gradients_at_padding_are_zero_and_clean(backend):
    lengths, (dtype, tolerance) = torch.tensor([17, 5, 0]), exact(backend)
    inputs = make(dtype=dtype)
    want = values_and_gradients(ssd_naive, inputs, lengths=lengths)
    got = values_and_gradients(scan, poison(inputs, lengths), lengths=lengths, backend=backend)
    assert_close(got, want, tolerance)
    for name in IN_TIME:
        assert not got[f"gradient of {name}"][padding(17, lengths)].any()


@EVERY_BACKEND
def test_nan_in_the_gradient_of_padding_goes_nowhere(backend):
    inputs = {k: v.requires_grad_() for k, v in make(dtype=exact(backend)[0]).items()}
    lengths = torch.tensor([17, 5, 0])
    y, _ = scan(**inputs, lengths=lengths, backend=backend)
    y.backward(torch.ones_like(y).masked_fill(padding(17, lengths)[..., None, None], float("nan")))
    assert all(v.grad.isfinite().all() for v in inputs.values())


# --- the entry


def test_the_choice_is_a_backend_with_a_reason():
    name, why = choose(torch.device("cpu"), torch.float32, 100)
    assert name in BACKENDS
    assert why


def test_an_unknown_backend_is_named():
    with pytest.raises(UserError, match="unknown SSD backend 'cuda'; there are: auto, naive, chunk, triton"):
        ssd(**make(), backend="cuda")


# --- rows end to end


@EVERY_BACKEND
@pytest.mark.parametrize("lengths", [[17, 0, 40, 1, 16], [3], [0, 0], [33, 32]])
def test_packed_rows_are_as_if_padded(backend, lengths, poisoned_empty):
    lengths, dtype, tolerance = torch.tensor(lengths), *exact(backend)
    inputs = make(len(lengths), int(lengths.max()), dtype=dtype)
    assert_packed_as_padded(on(backend), ssd_naive, inputs, lengths, tolerance=tolerance)


@pytest.mark.parametrize("offsets", [[0, 5], [1, 17], [0, 9, 5, 17], []])
def test_offsets_must_cover_the_rows(offsets):
    inputs = make(1)
    with pytest.raises(ValueError, match="offsets"):
        scan(**{**inputs, "initial_state": None}, offsets=torch.tensor(offsets, dtype=torch.long))
    with pytest.raises(ValueError, match="lengths of padded rows or offsets of packed rows"):
        scan(**inputs, lengths=torch.tensor([17]), offsets=torch.tensor([0, 17]))
