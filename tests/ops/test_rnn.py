"""ParaRNN's cells: naive.py is the definition, by the paper's numbers and finite differences; the rest agrees with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.errors import UserError
from samba_asr.ops.rnn import GRU_BACKENDS, LSTM_BACKENDS, choose, newton, para_gru, para_lstm, scan
from samba_asr.ops.rnn.cells import ParaGru, ParaLstm
from samba_asr.ops.rnn.newton import Newton, para_gru_newton, para_lstm_newton
from tests.ops.checks import assert_agree, assert_close, padding, some_resets, values_and_gradients

CELLS = {"gru": (para_gru, GRU_BACKENDS), "lstm": (para_lstm, LSTM_BACKENDS)}
FASTER = {"loop": 1e-11, "newton": 1e-10}  # with the tolerance
every_cell = pytest.mark.parametrize("cell", CELLS)
every_backend = pytest.mark.parametrize("backend", GRU_BACKENDS)
faster = pytest.mark.parametrize("backend", FASTER)

# Two channels, four steps: the inputs of an example, computed apart from this code (numpy, float64).
A = [[0.5, -1.0], [1.0, 0.25], [2.0, -0.5]]
C = [[0.3, -0.4], [0.6, 0.2]]
X = [
    [[0.1, 0.2], [-0.3, 0.4], [1.0, -1.0]],
    [[1.0, -0.5], [0.0, 0.5], [-0.5, 0.25]],
    [[-1.0, 0.0], [0.7, -0.7], [0.3, 2.0]],
    [[0.4, 0.9], [-1.2, 0.1], [0.0, -0.6]],
]
H0, C0 = [0.3, -0.2], [0.5, 0.1]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def make(cell, b=3, t=17, d=3, *, scale=1.0, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    inputs = {"x": randn(b, t, 3, d), "A": scale * randn(3, d)}
    if cell == "lstm":
        inputs["C"] = scale * randn(2, d)
    return {**inputs, "initial_state": randn(b, d) if cell == "gru" else randn(b, 2, d)}


def op(cell, backend="auto"):
    return lambda **named: CELLS[cell][0](**named, backend=backend)


def naive(cell):
    return CELLS[cell][1]["naive"]


@pytest.fixture(params=[1, 12, 1 << 16], ids=["one step at once", "few steps at once", "as it is"])
def block_elements(request, monkeypatch):
    monkeypatch.setitem(scan.BLOCK_ELEMENTS, "cpu", request.param)


@pytest.fixture(params=[1, 3, 16], ids=["windows of 1", "windows of 3", "as it is"])
def window(request, monkeypatch):
    monkeypatch.setattr(newton, "WINDOW", request.param)
    monkeypatch.setattr(newton, "REDUCED", 4 * request.param)


# --- the definition


@every_backend
def test_four_steps_of_the_gru(backend):
    inputs = {"x": double([X]), "A": double(A), "initial_state": double([H0])}
    want = [
        [0.615787560169, -0.520798701086],
        [0.36009440382, -0.06401372303],
        [0.458858932267, 0.466832686007],
        [0.347285944278, -0.194073724705],
    ]
    for v in inputs.values():
        v.requires_grad_()
    y, state = para_gru(**inputs, backend=backend)
    close = {"rtol": 0, "atol": 1e-11}
    torch.testing.assert_close(y[0], double(want), **close)
    torch.testing.assert_close(state, y[:, -1], **close)
    gx, gA, g0 = torch.autograd.grad(y.sum(), list(inputs.values()))
    want_gA = [[0.129297194002, -0.273867093855], [0.451894855814, -0.030572905542], [1.084349624235, -0.121824855957]]
    want_gx = [[0.654582128433, -0.154330408776], [0.102777619678, 0.007980413606], [0.685184131186, 0.32909275604]]
    torch.testing.assert_close(gA, double(want_gA), **close)
    torch.testing.assert_close(g0[0], double([3.188108782179, 0.540881490031]), **close)
    torch.testing.assert_close(gx[0, 0], double(want_gx), **close)


@every_backend
def test_four_steps_of_the_lstm(backend):
    start = double([[C0, H0]])
    y, state = para_lstm(double([X]), double(A), double(C), initial_state=start, backend=backend)
    want = [
        [0.350128398488, -0.132980027481],
        [0.345746976971, 0.044519429678],
        [0.488207238377, 0.174968222391],
        [0.26271137336, 0.059348808978],
    ]
    torch.testing.assert_close(y[0], double(want), rtol=0, atol=1e-11)
    torch.testing.assert_close(state[0, 0], double([0.711979996912, 0.110074638627]), rtol=0, atol=1e-11)
    torch.testing.assert_close(state[0, 1], y[0, -1], rtol=0, atol=1e-11)


def test_jacobians():
    x = double(X)[:, None]  # (t, b, 3, d)
    y, _ = para_gru(double([X]), double(A), initial_state=double([H0]))
    before = torch.cat([double([H0]), y[0, :-1]])[:, None, None]
    want = [
        [0.673384434194, 0.451196506101],
        [1.323316029903, 0.148128260889],
        [0.993217979518, 0.221270649855],
        [0.834485253357, 0.545109683543],
    ]
    J = ParaGru().linearize(x, double(A), before).J
    torch.testing.assert_close(J[:, 0, 0, 0], double(want), rtol=0, atol=1e-11)
    J = ParaLstm().linearize(x[:1], torch.cat([double(A), double(C)]), double([[[C0, H0]]])).J[0, 0]
    want = [
        [[0.568294539711, 0.509999355789], [0.070161545357, -0.297654369369]],
        [[0.272012160163, 0.271884578211], [0.173964525357, -0.172805875142]],
    ]
    torch.testing.assert_close(J, double(want), rtol=0, atol=1e-11)


@every_cell
@every_backend
def test_gradients_match_finite_differences(cell, backend):
    inputs = make(cell, b=2, t=4, d=2)
    where = {"lengths": torch.tensor([4, 2]), "reset": some_resets(2, 4, seed=3)}

    def run(*values):
        return op(cell, backend)(**dict(zip(inputs, values, strict=True)), **where)

    assert torch.autograd.gradcheck(run, [v.requires_grad_() for v in inputs.values()])


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0, 50), seed=st.integers(0, 99), cell=st.sampled_from(sorted(CELLS)))
def test_states_stay_in_their_box(scale, seed, cell):
    inputs = make(cell, scale=scale, seed=seed)
    y, _ = op(cell)(**inputs)
    bound = inputs["initial_state"].abs().clamp(min=1) if cell == "gru" else torch.ones(3, 3)
    assert (y.abs() <= bound[:, None] + 1e-12).all()


@every_backend
def test_a_channel_can_follow_parity(backend):
    """It changes its sign at every 1, for as long as it takes; no linear recurrence with positive decays can."""
    bits = torch.rand(1, 500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) < 0.5
    gates = torch.stack(
        [torch.where(bits, 40.0, -40.0), torch.full_like(bits, 40.0, dtype=torch.float64), 0.0 * bits], 2
    )
    A, start = double([[0.0], [0.0], [-40.0]]), double([[1.0]])
    y, _ = para_gru(gates.double(), A, initial_state=start, backend=backend)
    assert torch.equal(y < 0, bits.cumsum(1) % 2 == 1)


# --- every backend is the definition


def options_of(t):
    lengths = torch.tensor([t, 0, t // 2])
    return {}, {"lengths": lengths}, {"reset": some_resets(3, t), "lengths": lengths}


@every_cell
@pytest.mark.parametrize("t", [0, 1, 2, 17])
@pytest.mark.parametrize("d", [1, 3])
def test_the_loop_agrees_with_naive(cell, t, d, block_elements, poisoned_empty):
    for options in options_of(t):
        assert_agree(op(cell, "loop"), naive(cell), make(cell, 3, t, d), tolerance=1e-11, **options)


@every_cell
@pytest.mark.parametrize("t", [0, 1, 2, 17, 70])
def test_newton_agrees_with_naive(cell, t, window, poisoned_empty):
    for options in options_of(t):
        assert_agree(op(cell, "newton"), naive(cell), make(cell, 3, t), tolerance=1e-10, **options)


@every_cell
@faster
def test_in_float32(cell, backend):
    inputs = make(cell, t=50, scale=0.5, dtype=torch.float32)
    assert_agree(op(cell, backend), naive(cell), inputs, tolerance=2e-5)


@every_cell
@faster
def test_a_gradient_through_the_final_state_alone(cell, backend):
    def final(run):
        return lambda **inputs: run(**inputs)[1]

    assert_agree(final(op(cell, backend)), final(naive(cell)), make(cell), tolerance=FASTER[backend])


@every_cell
@faster
def test_the_initial_state_may_be_left_out(cell, backend):
    inputs = {**make(cell), "initial_state": None}
    assert_agree(op(cell, backend), naive(cell), inputs, tolerance=FASTER[backend])


@every_cell
@every_backend
def test_bfloat16_is_computed_in_float32_and_autocast_changes_nothing(cell, backend):
    inputs = make(cell, t=20, scale=0.3, dtype=torch.bfloat16)

    def run():
        return values_and_gradients(op(cell, backend), inputs)

    want = run()
    with torch.autocast("cpu", torch.bfloat16):
        got = run()
    assert all(torch.equal(got[name], want[name]) for name in want)
    y, state = op(cell, backend)(**inputs)
    exact_y, exact_state = naive(cell)(**{k: v.double() for k, v in inputs.items()})
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert_close({"state": state}, {"state": exact_state}, 1e-5)
    assert_close({"y": y}, {"y": exact_y}, 2**-8)


# --- state, lengths, resets


@every_cell
@every_backend
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 7), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_carrying_the_state_over_cuts_equals_the_whole(cell, backend, cuts, seed):
    t = sum(cuts)
    inputs, reset = make(cell, t=t, seed=seed), some_resets(3, t, seed)

    def in_pieces(x, initial_state, **weights):
        ys, state, i = [], initial_state, 0
        for size in cuts:
            piece = {"x": x[:, i : i + size], "reset": reset[:, i : i + size]}
            y, state = op(cell, backend)(**piece, **weights, initial_state=state)
            ys.append(y)
            i += size
        return torch.cat(ys, dim=1), state

    def whole(**inputs):
        return naive(cell)(**inputs, reset=reset)

    assert_agree(in_pieces, whole, inputs, tolerance=1e-10)


@every_cell
@every_backend
def test_each_row_is_as_if_alone_and_padding_may_hold_nan(cell, backend):
    lengths, reset = torch.tensor([17, 5, 0, 12]), some_resets(4, 17)
    reset |= padding(17, lengths)  # a reset in the padding must do nothing
    reset[3, 0] = True
    inputs = make(cell, b=4)
    behind = padding(17, lengths)
    inputs["x"][behind] = float("nan")
    inputs["initial_state"][3] = float("nan")  # cleared by the reset
    y, state = op(cell, backend)(**inputs, lengths=lengths, reset=reset)
    for row, length in enumerate(lengths):
        start = inputs["initial_state"][row : row + 1].nan_to_num()
        alone = {**inputs, "x": inputs["x"][row : row + 1, :length], "initial_state": start}
        want_y, want_state = naive(cell)(**alone, reset=reset[row : row + 1, :length])
        assert_close(
            {"y": y[row : row + 1, :length], "state": state[row : row + 1]}, {"y": want_y, "state": want_state}, 1e-10
        )
        assert not y[row, length:].any()
    assert torch.equal(state[2], inputs["initial_state"][2])  # length 0: bit for bit


@every_cell
@every_backend
def test_gradients_at_padding_are_zero_and_clean(cell, backend):
    lengths, inputs = torch.tensor([17, 5, 0]), make(cell)
    behind = padding(17, lengths)
    poisoned = {**inputs, "x": inputs["x"].masked_fill(behind[..., None, None], float("nan"))}
    want = values_and_gradients(naive(cell), inputs, lengths=lengths)
    got = values_and_gradients(op(cell, backend), poisoned, lengths=lengths)
    assert_close(got, want, 1e-10)
    assert not got["gradient of x"][behind].any()


# --- Newton's method: as many iterations as the residual asks for

WILD = {"variance 1": 1.0, "variance 16": 4.0, "uniform in [0, 8]": None}


def wild(cell, name, t=400, d=32):
    """Inputs with large recurrent weights, and with h0 = 5 in the GRU."""
    inputs = make(cell, b=2, t=t, d=d)
    scale = WILD[name]
    for weight in {"A", "C"} & inputs.keys():
        v = inputs[weight]
        inputs[weight] = 8 * torch.rand(v.shape, dtype=v.dtype) if scale is None else scale * v
    if cell == "gru":
        inputs["initial_state"] = torch.full_like(inputs["initial_state"], 5.0)
    return inputs


def solve(cell, inputs):
    solver = Newton()
    y, _ = {"gru": para_gru_newton, "lstm": para_lstm_newton}[cell](**inputs, solver=solver)
    return y, solver.iterations


@every_cell
@pytest.mark.parametrize("name", WILD)
def test_newton_solves_every_step_whatever_the_weights(cell, name):
    """Its states and the loop's differ by rounding, which such weights multiply; so each step is checked from its own past."""
    torch.manual_seed(0)
    inputs = wild(cell, name)
    y, iterations = solve(cell, inputs)
    assert len(iterations) > 1 or cell == "lstm"  # not solved as a whole
    assert max(iterations) <= newton.WINDOW
    if cell == "gru":
        before = torch.cat([inputs["initial_state"][:, None], y[:, :-1]], 1).flatten(0, 1)
        again, _ = para_gru(inputs["x"].flatten(0, 1)[:, None], inputs["A"], initial_state=before, backend="naive")
        torch.testing.assert_close(again.view_as(y), y, rtol=0, atol=5e-15)
    if name != "variance 16":
        torch.testing.assert_close(y, naive(cell)(**inputs)[0], rtol=0, atol=1e-10)


@every_cell
def test_tame_weights_need_few_iterations_however_long(cell):
    inputs = make(cell, b=2, t=1000, d=16, scale=0.05)
    y, iterations = solve(cell, inputs)
    assert len(iterations) == 1
    assert iterations[0] <= 6
    torch.testing.assert_close(y, naive(cell)(**inputs)[0], rtol=0, atol=1e-10)


def test_three_iterations_are_not_enough():
    """What a fixed number of iterations gives, without any sign that it is wrong."""
    torch.manual_seed(0)
    inputs = wild("gru", "uniform in [0, 8]")
    x = inputs["x"].transpose(0, 1)
    start = inputs["initial_state"][None, :, None]
    s = ParaGru().linearize(x, inputs["A"], torch.zeros(1, 2, 1, 32, dtype=torch.float64)).value
    for _ in range(3):
        value, J, _ = ParaGru().linearize(x, inputs["A"], torch.cat([start, s[:-1]]))
        s = s + newton.recurrence(J, value - s)
    error = (s[:, :, 0].transpose(0, 1) - naive("gru")(**inputs)[0]).abs().max()
    assert not error < 100  # of states that lie in [-5, 5]


@settings(max_examples=10, deadline=None)
@given(t=st.integers(0, 40), m=st.integers(1, 2), seed=st.integers(0, 99))
def test_the_reduction_is_the_recurrence(t, m, seed):
    g = torch.Generator().manual_seed(seed)
    J = torch.randn(t, 2, m, m, 3, generator=g, dtype=torch.float64) / 2
    x = torch.randn(t, 2, m, 3, generator=g, dtype=torch.float64)
    y, want = torch.zeros(2, m, 3, dtype=torch.float64), []
    for J_t, x_t in zip(J, x, strict=True):
        y = torch.einsum("bijd,bjd->bid", J_t, y) + x_t
        want.append(y)
    torch.testing.assert_close(newton.recurrence(J, x), torch.stack(want) if want else x)


# --- the choice


def test_the_backend_is_chosen_by_device_and_length(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [choose(cpu, torch.float32, t)[0] for t in (1, 2, 3, 400)] == ["naive", "naive", "loop", "loop"]
    assert [choose(cuda, torch.float32, t)[0] for t in (1, 16, 17, 400)] == ["naive", "loop", "newton", "newton"]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert choose(cuda, torch.float32, 400)[0] == "loop"


@every_cell
def test_errors(cell):
    inputs = make(cell)
    with pytest.raises(UserError, match=f"para_{cell} has no backend 'cuda': use 'auto' or one of naive, loop, newton"):
        op(cell, "cuda")(**inputs)
    for name in inputs.keys() - {"x"}:
        with pytest.raises(ValueError, match=f"para_{cell}: {name} has shape"):
            op(cell)(**{**inputs, name: inputs[name][..., :1]})
    with pytest.raises(ValueError, match="x has shape"):
        op(cell)(**{**inputs, "x": inputs["x"][:, :, :2]})
