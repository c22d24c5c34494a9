"""The selective scan: naive.py is the definition, by hand and by finite differences; the rest agrees with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.errors import UserError
from samba_asr.ops.selective_scan import BACKENDS, choose, chunk, selective_scan
from samba_asr.ops.selective_scan.chunk import selective_scan_chunk
from samba_asr.ops.selective_scan.naive import selective_scan_naive
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


def make(b=3, t=17, d=3, n=5, *, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    return {
        "x": randn(b, t, d),
        "dt": torch.nn.functional.softplus(randn(b, t, d) - 1),
        "A": -torch.exp(randn(d, n)),
        "B": randn(b, t, n),
        "C": randn(b, t, n),
        "D": randn(d),
        "initial_state": randn(b, d, n),
    }


@pytest.fixture(params=[1, 100, 1 << 19], ids=["one step a block", "small blocks", "real blocks"])
def block_elements(request, monkeypatch):
    monkeypatch.setattr(chunk, "BLOCK_ELEMENTS", request.param)


def on(backend):
    return where_it_runs(selective_scan, backend)


def scan(*args, backend="auto", **named):
    return on(backend)(*args, **named)


# --- the definition


@EVERY_BACKEND
def test_two_steps_by_hand(backend):
    x, dt = torch.tensor([[[2.0], [3.0]]]), torch.tensor([[[0.5], [1.0]]])
    A, D, h0 = torch.tensor([[-1.0]]), torch.tensor([10.0]), torch.tensor([[[4.0]]])
    B, C = torch.tensor([[[5.0], [6.0]]]), torch.tensor([[[7.0], [8.0]]])
    h1 = torch.exp(torch.tensor(-0.5)) * 4 + 0.5 * 2 * 5
    h2 = torch.exp(torch.tensor(-1.0)) * h1 + 1.0 * 3 * 6
    y, state = scan(x, dt, A, B, C, D=D, initial_state=h0, backend=backend)
    torch.testing.assert_close(y.flatten(), torch.stack([7 * h1 + 20, 8 * h2 + 30]))
    torch.testing.assert_close(state.flatten(), h2[None])


@pytest.mark.parametrize("backend", ["naive", "chunk"])  # finite differences want float64
@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_match_finite_differences(backend, ragged):
    inputs = make(b=2, t=4, d=2, n=2)
    options = {"lengths": torch.tensor([4, 2]), "reset": some_resets(2, 4, seed=3)} if ragged else {}

    def op(*values):
        return scan(**dict(zip(inputs, values, strict=True)), **options, backend=backend)

    assert torch.autograd.gradcheck(op, [v.requires_grad_() for v in inputs.values()])


# --- every backend is the definition


@pytest.mark.parametrize("t", [0, 1, 2, 17, 100])
@pytest.mark.parametrize(("d", "n"), [(1, 1), (3, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_agrees_with_naive(t, d, n, dtype, block_elements, poisoned_empty):
    inputs = make(3, t, d, n, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for options in options_of(t):
        assert_agree(selective_scan_chunk, selective_scan_naive, inputs, tolerance=tolerance, **options)


@every_backend(["triton"])
@pytest.mark.parametrize(("t", "d", "n"), [(0, 3, 5), (1, 1, 1), (16, 2, 4), (17, 17, 2), (35, 3, 5)])
def test_triton_agrees_with_naive(t, d, n, backend, poisoned_empty):
    inputs = make(3, t, d, n, dtype=torch.float32)
    for options in options_of(t)[1:]:
        assert_agree(on(backend), selective_scan_naive, inputs, tolerance=2e-5, **options)


@every_backend(["triton"])
def test_triton_is_a_good_custom_op(backend):
    inputs, lengths = make(2, 5, 3, 2, dtype=torch.float32), torch.tensor([5, 2])
    inputs |= {"z": torch.randn(2, 5, 3), "dt_bias": torch.randn(3)}
    named = {"lengths": lengths, "reset": some_resets(2, 5)}
    where = {"lengths": lengths, "offsets": None, "reset": named["reset"], "sizes": None}
    inputs = {name: inputs[name] for name in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")}
    assert_is_a_good_custom_op(selective_scan, "selective_scan_forward", inputs, where, **named)


def options_of(t):
    lengths = torch.tensor([t, 0, t // 2])
    return {}, {"lengths": lengths}, {"reset": some_resets(3, t), "lengths": lengths}


@FASTER
def test_optional_inputs_may_be_left_out(backend):
    dtype, tolerance = exact(backend)
    inputs = {**make(dtype=dtype), "D": None, "initial_state": None}
    assert_agree(on(backend), selective_scan_naive, inputs, tolerance=tolerance)


@FASTER
def test_a_gradient_through_the_final_state_alone(backend):
    def final(op):
        return lambda **inputs: op(**inputs)[1]

    dtype, tolerance = exact(backend)
    assert_agree(final(on(backend)), final(selective_scan_naive), make(t=40, dtype=dtype), tolerance=tolerance)


@EVERY_BACKEND
def test_bfloat16_is_summed_in_float32(backend):
    inputs = make(t=100, dtype=torch.bfloat16)
    y, state = scan(**inputs, backend=backend)
    exact_y, exact_state = selective_scan_naive(**{k: v.double() for k, v in inputs.items()})
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert_close({"state": state}, {"state": exact_state}, 1e-5)
    assert_close({"y": y}, {"y": exact_y}, 2**-8)  # one rounding, at the end


@EVERY_BACKEND
def test_autocast_changes_nothing(backend):
    inputs = make(t=20, dtype=torch.float32)

    def run():
        return values_and_gradients(scan, inputs, backend=backend)

    want = run()
    with torch.autocast("cpu", torch.bfloat16):
        got = run()
    assert all(torch.equal(got[name], want[name]) for name in want)


@EVERY_BACKEND
@pytest.mark.parametrize("size", [1e-8, 50.0, 1e4])
def test_extreme_steps_stay_finite_and_exact(backend, size):
    inputs = make(t=20, dtype=torch.float32)
    for dt in (torch.full_like(inputs["dt"], size), torch.where(some_resets(3, 20)[..., None], size, inputs["dt"])):
        extreme = {**inputs, "dt": dt}
        found = values_and_gradients(scan, extreme, backend=backend)
        assert all(v.isfinite().all() for v in found.values())
        assert_agree(on(backend), selective_scan_naive, extreme, tolerance=1e-5)


def test_an_hour_of_frames_keeps_its_digits():
    single = make(b=1, t=1 << 16, d=2, n=2, dtype=torch.float32)
    assert_close(
        values_and_gradients(selective_scan_chunk, single),
        values_and_gradients(selective_scan_chunk, {name: v.double() for name, v in single.items()}),
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
    carried_equals_whole(backend, [3, 0, 18, 1], seed=0)


def carried_equals_whole(backend, cuts, seed):
    t, (dtype, tolerance) = sum(cuts), exact(backend)
    inputs = make(t=t, seed=seed, dtype=dtype)
    reset = some_resets(3, t, seed)

    def in_pieces(initial_state, A, D, **in_time):
        ys, state, i = [], initial_state, 0
        for size in cuts:
            piece = {name: v[:, i : i + size] for name, v in {**in_time, "reset": reset}.items()}
            y, state = scan(**piece, A=A, D=D, initial_state=state, backend=backend)
            ys.append(y)
            i += size
        return torch.cat(ys, dim=1), state

    def whole(**inputs):
        return selective_scan_naive(**inputs, reset=reset)

    assert_agree(in_pieces, whole, inputs, tolerance=tolerance)


@EVERY_BACKEND
def test_each_row_is_as_if_alone_and_padding_may_hold_nan(backend):
    lengths = torch.tensor([17, 5, 0, 12])
    dtype, tolerance = exact(backend)
    inputs, reset = make(b=4, dtype=dtype), some_resets(4, 17)
    reset |= padding(17, lengths)  # a reset in the padding must do nothing
    for row, length in enumerate(lengths):
        for name in IN_TIME:
            inputs[name][row, length:] = float("nan")
    y, state = scan(**inputs, lengths=lengths, reset=reset, backend=backend)
    for row, length in enumerate(lengths):
        alone = {k: v[row : row + 1, :length] if k in IN_TIME else v for k, v in inputs.items()}
        alone["initial_state"] = inputs["initial_state"][row : row + 1]
        want_y, want_state = selective_scan_naive(**alone, reset=reset[row : row + 1, :length])
        assert_close(
            {"y": y[row : row + 1, :length], "state": state[row : row + 1]},
            {"y": want_y, "state": want_state},
            tolerance,
        )
        assert not y[row, length:].any()
    assert torch.equal(state[2], inputs["initial_state"][2])  # length 0: bit for bit


@EVERY_BACKEND
def test_gradients_at_padding_are_zero_and_clean(backend):
    lengths, (dtype, tolerance) = torch.tensor([17, 5, 0]), exact(backend)
    inputs = make(dtype=dtype)
    behind = padding(17, lengths)
    poisoned = {k: v.masked_fill(behind[..., None], float("nan")) if k in IN_TIME else v for k, v in inputs.items()}
    want = values_and_gradients(selective_scan_naive, inputs, lengths=lengths)
    got = values_and_gradients(scan, poisoned, lengths=lengths, backend=backend)
    assert_close(got, want, tolerance)
    for name in IN_TIME:
        assert not got[f"gradient of {name}"][behind].any()


@EVERY_BACKEND
def test_nan_in_the_gradient_of_padding_goes_nowhere(backend):
    inputs = {k: v.requires_grad_() for k, v in make(dtype=exact(backend)[0]).items()}
    lengths = torch.tensor([17, 5, 0])
    y, _ = scan(**inputs, lengths=lengths, backend=backend)
    y.backward(torch.ones_like(y).masked_fill((torch.arange(17) >= lengths[:, None])[..., None], float("nan")))
    assert all(v.grad.isfinite().all() for v in inputs.values())


@EVERY_BACKEND
def test_a_reset_forgets_everything_before_it_even_nan(backend):
    dtype, tolerance = exact(backend)
    inputs, reset = make(b=1, dtype=dtype), torch.zeros(1, 17, dtype=torch.bool)
    reset[0, 6] = True
    for name in IN_TIME:
        inputs[name][:, 3] = float("nan")
    y, state = scan(**inputs, reset=reset, backend=backend)
    after = {k: v[:, 6:] if k in IN_TIME else v for k, v in inputs.items()}
    want_y, want_state = selective_scan_naive(**{**after, "initial_state": None})
    assert_close({"y": y[:, 6:], "state": state}, {"y": want_y, "state": want_state}, tolerance)


@EVERY_BACKEND
def test_a_reset_at_the_first_step_keeps_a_spoilt_state_out_of_values_and_gradients(backend):
    dtype, tolerance = exact(backend)
    inputs, reset = make(dtype=dtype), torch.zeros(3, 17, dtype=torch.bool)
    reset[1, 0] = True  # the other rows go on from their states
    spoilt = {**inputs, "initial_state": inputs["initial_state"].clone()}
    spoilt["initial_state"][1] = float("nan")
    inputs["initial_state"][1] = 0
    want = values_and_gradients(selective_scan_naive, inputs, reset=reset)
    got = values_and_gradients(scan, spoilt, reset=reset, backend=backend)
    assert_close(got, want, tolerance)
    assert not got["gradient of initial_state"][1].any()


# --- what a mixer wants beside the scan


@EVERY_BACKEND
@pytest.mark.parametrize("given", [("z",), ("dt_bias",), ("z", "dt_bias")])
def test_gate_and_step_size_are_as_if_computed_apart(given, backend, poisoned_empty):
    dtype, tolerance = exact(backend)
    inputs, lengths = make(dtype=dtype), torch.tensor([17, 5, 0])
    rng = torch.Generator().manual_seed(1)
    beside = {"z": (3, 17, 3), "dt_bias": (3,)}
    inputs |= {name: torch.randn(beside[name], generator=rng, dtype=torch.float64).to(dtype) for name in given}
    if "dt_bias" in given:
        inputs["dt"] = 3 * torch.randn(3, 17, 3, generator=rng, dtype=torch.float64).to(dtype)

    def apart(z=None, dt_bias=None, **inputs):
        if dt_bias is not None:
            inputs["dt"] = torch.nn.functional.softplus(inputs["dt"] + dt_bias)
        y, state = selective_scan_naive(**inputs, lengths=lengths)
        return (y if z is None else y * z * z.sigmoid()), state

    scan = lambda **named: on(backend)(**named, lengths=lengths)  # noqa: E731
    assert_agree(scan, apart, inputs, tolerance=tolerance)
    behind = padding(17, lengths)[..., None]
    spoilt = {name: v.masked_fill(behind, float("nan")) if name in ("z", "dt") else v for name, v in inputs.items()}
    assert_close(values_and_gradients(scan, spoilt), values_and_gradients(scan, inputs), tolerance)


# --- the entry


def test_every_choice_is_a_backend_with_a_reason():
    for t in (0, 1, 2, 3, 1000):
        name, why = choose(torch.device("cpu"), torch.float32, t)
        assert name in BACKENDS
        assert why


def test_wrong_arguments_name_the_value():
    inputs = make()
    with pytest.raises(UserError, match="no backend 'cuda'"):
        selective_scan(**inputs, backend="cuda")
    with pytest.raises(ValueError, match=r"B has shape \(3, 16, 5\), expected \(3, 17, 5\)"):
        selective_scan(**{**inputs, "B": inputs["B"][:, 1:]})


# --- rows end to end


@EVERY_BACKEND
@pytest.mark.parametrize("lengths", [[17, 0, 40, 1, 16], [3], [0, 0], [33, 32]])
def test_packed_rows_are_as_if_padded(backend, lengths, poisoned_empty):
    lengths, dtype, tolerance = torch.tensor(lengths), *exact(backend)
    inputs = make(len(lengths), int(lengths.max()), dtype=dtype)
    assert_packed_as_padded(on(backend), selective_scan_naive, inputs, lengths, tolerance=tolerance)


@pytest.mark.parametrize("offsets", [[0, 5], [1, 17], [0, 9, 5, 17], []])
def test_offsets_must_cover_the_rows(offsets):
    inputs = make(1)
    with pytest.raises(ValueError, match="offsets"):
        scan(**{**inputs, "initial_state": None}, offsets=torch.tensor(offsets, dtype=torch.long))
    with pytest.raises(ValueError, match="lengths of padded rows or offsets of packed rows"):
        scan(**inputs, lengths=torch.tensor([17]), offsets=torch.tensor([0, 17]))
