"""S4 and S4D: naive.py is the definition, checked by the dense system and the Cauchy kernel; chunk.py agrees with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.errors import UserError
from samba_asr.ops import lti as op
from samba_asr.ops.lti import BACKENDS, Prepared, System, choose, lti
from samba_asr.ops.lti.gaps import MOST
from samba_asr.ops.lti.kernel import bilinear, dense, kernel
from samba_asr.ops.lti.system import as_real
from samba_asr.ops.rows import by_segments
from samba_asr.ops.spectrum import diagonal, hippo, legs
from tests.ops.checks import assert_agree, assert_close, every_backend, padding, some_resets, values_and_gradients

EVERY_BACKEND = every_backend(BACKENDS)
KINDS = ("legs", "legt", "fout", "lin", "real")


def make(kind="legs", b=3, t=17, g=2, h=3, N=6, *, dtype=torch.float64, seed=0):
    """Inputs of `run`: real numbers alone, of a system that is not at its initial values."""
    rng = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    form = hippo(kind, N) if kind in ("legs", "legt", "fout") else diagonal(kind, N)
    A = form[0].expand(g, -1)
    inputs = {
        "x": randn(b, t, g * h),
        "log_A_real": (-A.real).clamp(min=0.01).log() + 0.1 * randn(*A.shape),
        "B": _parts(form[1].expand(g, -1)) + 0.1 * randn(*_parts(A).shape),
        "C": randn(g * h, *_parts(A).shape[1:]),
        "log_dt": torch.linspace(-3, 0, g, dtype=torch.float64),
        "initial_state": randn(b, g * h, N),
    }
    if A.is_complex():
        inputs["A_imag"] = A.imag + 0.1 * randn(*A.shape)
    if kind in ("legs", "legt", "fout"):
        P = _parts(form[2][:, None].expand(-1, g, -1))
        inputs["P"] = P + 0.1 * randn(*P.shape)
    return {name: v.to(dtype) for name, v in inputs.items()}


def _parts(v):
    return torch.view_as_real(v.resolve_conj().contiguous()) if v.is_complex() else v


def system_of(log_A_real, B, C, log_dt, A_imag=None, P=None):
    if A_imag is None:
        return System(-log_A_real.exp(), B, C, log_dt.exp())
    A = torch.complex(-log_A_real.exp(), A_imag)
    B, C, P = (None if v is None else torch.view_as_complex(v.contiguous()) for v in (B, C, P))
    return System(A, B, C, log_dt.exp(), P)


def run(x, initial_state=None, *, backend="auto", lengths=None, reset=None, **parameters):
    return lti(x, system_of(**parameters), initial_state=initial_state, lengths=lengths, reset=reset, backend=backend)


def on(backend):
    return lambda **inputs: run(**inputs, backend=backend)


naive, chunked = on("naive"), on("chunk")


@pytest.fixture(params=[1, 4, 32], ids=lambda q: f"chunks of {q}")
def steps_of_a_chunk(request, monkeypatch):
    monkeypatch.setattr(op.chunk, "CHUNK", request.param)
    monkeypatch.setattr(op.chunk, "FEW", 0)


# --- the definition


LEGS = hippo("legs", 4)
C = torch.ones(4, dtype=torch.float64)
U = torch.tensor([1, 0, -1, 2, 0.5, -0.25, 3, 1], dtype=torch.float64)


def legs_of_four():
    """HiPPO-LegS, N = 4, dt = 0.1, read by C = (1, 1, 1, 1) in its own basis."""
    A, B, P, V = LEGS
    return System(A[None], B[None], (C.to(V.dtype) @ V)[None], torch.tensor([0.1], dtype=torch.float64), P[:, None])


KERNEL = [
    *(0.547052197739, 0.223439367527, 0.063993929101, -0.004599418612),
    *(-0.025621550246, -0.023929160707, -0.013252275079, -0.00073675791),
]
FROM_ZERO = [
    *(0.547052197739, 0.223439367527, -0.483058268637, 0.866065609338),
    *(0.630789354576, 0.083614750436, 1.620464153828, 1.171021411044),
]
FROM_START = [
    *(1.08155825166, 0.615426230261, -0.19098190972, 1.083587483037),
    *(0.789529290994, 0.194138075842, 1.690548043789, 1.206936528991),
]


@EVERY_BACKEND
@pytest.mark.parametrize(
    ("start", "outputs", "end"),
    [
        ([0, 0, 0, 0], FROM_ZERO, [0.486682271502, 0.522555381369, 0.209027481293, -0.04724372312]),
        ([1, -1, 0.5, 0.25], FROM_START, [0.935711332972, -0.108178156738, 0.74163887562, -0.362235522863]),
    ],
)
def test_the_numbers_of_legs(backend, start, outputs, end):
    V = LEGS.V
    z = V.mH @ torch.tensor(start, dtype=V.dtype)
    y, state = lti(U.view(1, 8, 1), legs_of_four(), initial_state=as_real(z).view(1, 1, 4), backend=backend)
    torch.testing.assert_close(y.flatten(), torch.tensor(outputs, dtype=torch.float64), rtol=0, atol=1e-11)
    real = 2 * (V @ torch.complex(*state.flatten().chunk(2))).real
    torch.testing.assert_close(real, torch.tensor(end, dtype=torch.float64), rtol=0, atol=1e-11)


def test_the_kernel_of_legs():
    want = torch.tensor(KERNEL, dtype=torch.float64)
    torch.testing.assert_close(kernel(legs_of_four(), 8)[0], want, rtol=0, atol=1e-11)
    torch.testing.assert_close(kernel(legs_of_four(), 7)[0], want[:7], rtol=0, atol=1e-11)  # omega is never -1


def test_the_dense_system_of_legs():
    A, B = bilinear(*legs(4)[:2], 0.1)
    want = [
        [0.904761904762, 0, 0, 0],
        [-0.14996110888, 0.818181818182, 0, 0],
        [-0.159929574901, -0.3061646914, 0.739130434783, 0],
        [-0.141923418719, -0.271694211163, -0.428701433558, 0.666666666667],
    ]
    torch.testing.assert_close(A, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-11)
    want = torch.tensor([0.095238095238, 0.14996110888, 0.159929574901, 0.141923418719], dtype=torch.float64)
    torch.testing.assert_close(B, want, rtol=0, atol=1e-11)


@EVERY_BACKEND
@pytest.mark.parametrize(
    ("name", "want"),
    [
        (
            "lin",
            [
                *(0.385766597874, 0.349877232113, 0.301444901652, 0.245362496017),
                *(0.186828387066, 0.13082682419, 0.081676898909, 0.042686144192),
            ],
        ),
        (
            "inv",
            [
                *(0.383613353824, 0.339882586938, 0.278331356761, 0.207721440616),
                *(0.137271791629, 0.07536058974, 0.028461096899, 0.000435103827),
            ],
        ),
    ],
)
def test_the_kernels_of_s4d(backend, name, want):
    A, B = diagonal(name, 4)
    system = System(A[None], B[None], torch.ones_like(A)[None], torch.tensor([0.1], dtype=torch.float64))
    impulse = torch.zeros(1, 8, 1, dtype=torch.float64)
    impulse[0, 0] = 1
    y, _ = lti(impulse, system, backend=backend)
    torch.testing.assert_close(y.flatten(), torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-11)
    torch.testing.assert_close(kernel(system, 8)[0], y.flatten(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_naive_is_the_dense_bilinear_system(kind):
    inputs = make(kind)
    system = system_of(**{k: v for k, v in inputs.items() if k not in ("x", "initial_state")})
    whole = lambda v: torch.cat([v, v.conj()], -1) if v.is_complex() else v  # noqa: E731
    ys, ends = [], []
    for channel in range(6):
        A, B = bilinear(*dense(system, channel // 3), system.dt[channel // 3])
        start = inputs["initial_state"][:, channel]
        z = whole(torch.complex(*start.chunk(2, -1)) if system.A.is_complex() else start)
        for i in range(17):
            z = z @ A.T + B * inputs["x"][:, i, channel, None]
            ys.append((z @ whole(system.C[channel])).real)
        ends.append(as_real(z[:, : system.A.shape[1]]))
    want = torch.stack(ys).view(6, 17, 3).permute(2, 1, 0), torch.stack(ends, 1)
    for got, expected in zip(naive(**inputs), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [16, 17])
def test_naive_is_a_convolution_with_the_cauchy_kernel(kind, length):
    inputs = make(kind, t=length)
    del inputs["initial_state"]
    system = system_of(**{k: v for k, v in inputs.items() if k != "x"})
    K = kernel(system, length)
    want = sum(torch.nn.functional.pad(inputs["x"], (0, 0, i, 0))[:, :length] * K[:, i] for i in range(length))
    torch.testing.assert_close(naive(**inputs)[0], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_match_finite_differences(kind):
    inputs = make(kind, b=2, t=4, g=1, h=2, N=4)
    options = {"lengths": torch.tensor([4, 2]), "reset": some_resets(2, 4, seed=3)}

    def function(*values):
        return naive(**dict(zip(inputs, values, strict=True)), **options)

    assert torch.autograd.gradcheck(function, [v.requires_grad_() for v in inputs.values()])


# --- chunks are the definition


def options_of(t):
    lengths = torch.tensor([t, 0, t // 2])
    idle = torch.tensor([t, 0, t])
    return {}, {"lengths": lengths}, {"lengths": idle}, {"reset": some_resets(3, t), "lengths": lengths}


@pytest.mark.parametrize("t", [0, 1, 2, 3, 4, 5, 31, 32, 33])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_naive(kind, t, steps_of_a_chunk, poisoned_empty):
    inputs = make(kind, t=t)
    for options in options_of(t):
        assert_agree(chunked, naive, inputs, tolerance=1e-11, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_naive_over_many_chunks(kind):
    options = {"reset": torch.rand(3, 400, generator=torch.Generator().manual_seed(0)) < 0.01}
    options["lengths"] = torch.tensor([400, 0, 201])
    assert_agree(chunked, naive, make(kind, t=400, N=16), tolerance=1e-11, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_over_400_steps(kind):
    single = make(kind, t=400, N=64, dtype=torch.float32)
    exact = naive(**{name: v.double() for name, v in single.items()})
    (y, state), (slow_y, slow_state) = chunked(**single), naive(**single)
    error = lambda got, want: (got - want).abs().max() / want.abs().max()  # noqa: E731
    assert error(y, exact[0]) < 2e-5
    assert error(y, exact[0]) < 3 * error(slow_y, exact[0])
    assert error(state, exact[1]) < 3 * error(
        slow_state, exact[1]
    )  # undamped states turn a thousand times a unit of time


@EVERY_BACKEND
def test_a_gradient_through_the_final_state_alone(backend):
    final = lambda op: lambda **inputs: op(**inputs)[1]  # noqa: E731
    assert_agree(final(on(backend)), final(naive), make(t=40), tolerance=1e-11)


@EVERY_BACKEND
def test_bfloat16_is_summed_in_float32(backend):
    inputs = {**make(t=100, dtype=torch.float32), "x": make(t=100)["x"].bfloat16()}
    y, state = on(backend)(**inputs)
    exact_y, exact_state = naive(**{k: v.double() for k, v in inputs.items()})
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert_close({"state": state}, {"state": exact_state}, 1e-5)
    assert_close({"y": y}, {"y": exact_y}, 2**-8)


@EVERY_BACKEND
def test_autocast_changes_nothing(backend):
    inputs = make(t=20, dtype=torch.float32)
    want = on(backend)(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = on(backend)(**inputs)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


# --- whatever training does, a step is a contraction


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), rank=st.integers(0, 2), real=st.floats(-8, 3), low=st.floats(0, 30))
def test_no_parameters_make_it_grow(seed, rank, real, low):
    """Without input, the norm of the state never rises; and it stays finite with any input and any step."""
    rng = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.complex128)  # noqa: E731
    A = torch.complex(torch.full((3, 4), -torch.tensor(real).exp().item()).double(), 100 * randn(3, 4).real)
    dt = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)
    P = low * randn(rank, 3, 4) if rank else None
    prepared = Prepared(System(A, randn(3, 4), randn(3, 4), dt, P))
    for q in (1, 4, 32):
        norms = torch.linalg.matrix_norm(prepared.closed(q).M, 2)
        assert (norms <= 1 + 1e-9).all()


@EVERY_BACKEND
def test_an_hour_of_frames_stays_bounded(backend):
    inputs = make("legs", b=1, t=100_000 if backend == "chunk" else 1000, g=1, h=1, N=8, dtype=torch.float32)
    inputs |= {"P": 30 * inputs["P"], "log_dt": torch.tensor([7.0])}  # dt = 1097
    y, state = on(backend)(**inputs)
    assert y.isfinite().all()
    assert state.isfinite().all()
    assert y.abs().max() < 1e3 * inputs["x"].abs().max()


# --- state, lengths, resets


@EVERY_BACKEND
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), min_size=1, max_size=6), seed=st.integers(0, 99), kind=st.sampled_from(KINDS))
def test_carrying_the_state_over_cuts_equals_the_whole(backend, cuts, seed, kind):
    t = sum(cuts)
    inputs, reset = make(kind, t=t, seed=seed), some_resets(3, t, seed)

    def in_pieces(x, initial_state, **parameters):
        ys, state, i = [], initial_state, 0
        for size in cuts:
            piece = {"x": x[:, i : i + size], "reset": reset[:, i : i + size]}
            y, state = run(**piece, initial_state=state, **parameters, backend=backend)
            ys.append(y)
            i += size
        return torch.cat(ys, dim=1), state

    assert_agree(in_pieces, lambda **inputs: naive(**inputs, reset=reset), inputs, tolerance=1e-11)


@EVERY_BACKEND
def test_each_row_is_as_if_alone_and_padding_may_hold_nan(backend):
    lengths = torch.tensor([17, 5, 0, 12])
    inputs, reset = make(b=4), some_resets(4, 17)
    reset |= padding(17, lengths)  # a reset in the padding must do nothing
    inputs["x"][padding(17, lengths)] = float("nan")
    y, state = on(backend)(**inputs, lengths=lengths, reset=reset)
    for row, length in enumerate(lengths):
        alone = {**inputs, "x": inputs["x"][row : row + 1, :length], "initial_state": inputs["initial_state"][[row]]}
        want_y, want_state = naive(**alone, reset=reset[row : row + 1, :length])
        got = {"y": y[row : row + 1, :length], "state": state[[row]]}
        assert_close(got, {"y": want_y, "state": want_state}, 1e-11)
        assert not y[row, length:].any()
    assert torch.equal(state[2], inputs["initial_state"][2])  # length 0: bit for bit


@EVERY_BACKEND
def test_gradients_at_padding_are_zero_and_clean(backend):
    lengths, inputs = torch.tensor([17, 5, 0]), make()
    behind = padding(17, lengths)
    poisoned = {**inputs, "x": inputs["x"].masked_fill(behind[..., None], float("nan"))}
    want = values_and_gradients(naive, inputs, lengths=lengths)
    got = values_and_gradients(on(backend), poisoned, lengths=lengths)
    assert_close(got, want, 1e-11)
    assert not got["gradient of x"][behind].any()


@EVERY_BACKEND
def test_a_reset_keeps_a_spoilt_state_out_of_values_and_gradients(backend):
    inputs, reset = make(), torch.zeros(3, 17, dtype=torch.bool)
    reset[1, 0] = True  # the other rows go on from their states
    spoilt = {**inputs, "initial_state": inputs["initial_state"].clone()}
    spoilt["initial_state"][1] = float("nan")
    inputs["initial_state"][1] = 0
    want = values_and_gradients(naive, inputs, reset=reset)
    got = values_and_gradients(on(backend), spoilt, reset=reset)
    assert_close(got, want, 1e-11)
    assert not got["gradient of initial_state"][1].any()


# --- resets as rows


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    share=st.sampled_from([0.0, 0.03, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_segments_are_what_resets_mean(lengths, share, seed):
    """Any resets, whatever the lengths of the segments: the sum of the inputs since the last reset."""
    t, rng = max(lengths), torch.Generator().manual_seed(seed)
    reset = torch.rand(len(lengths), t, generator=rng) < share
    x = torch.randn(len(lengths), t, 2, generator=rng, dtype=torch.float64)
    start, lengths = torch.randn(len(lengths), 2, generator=rng, dtype=torch.float64), torch.tensor(lengths)
    x = x.masked_fill(padding(t, lengths)[..., None], 0)

    def total(x, state, lengths, final):
        y = x.cumsum(1) + (0 if state is None else state[:, None])
        last = y[:, -1:] if lengths is None else y.gather(1, (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, 2))
        return y, (last[:, 0] if y.shape[1] else state) if final else None

    y, end = by_segments(total, x, start, lengths, reset)
    for row, length in enumerate(lengths.tolist()):
        at = start[row]
        for i in range(length):
            at = x[row, i] + (0 if reset[row, i] else at)
            torch.testing.assert_close(y[row, i], at)
        if length:
            torch.testing.assert_close(end[row], at)


def test_segments_of_very_different_lengths_are_not_padded_to_the_longest():
    reset = torch.zeros(1, 1000, dtype=torch.bool)
    reset[0, 900:] = True
    seen = []

    def note(x, state, lengths, final):
        seen.append(x.shape[0] * x.shape[1])
        return x, torch.zeros(len(x), 1) if final else None

    by_segments(note, torch.zeros(1, 1000, 1), torch.zeros(1, 1), None, reset)
    assert sum(seen) < 4 * 1000


# --- the entry


def test_every_choice_is_a_backend_with_a_reason():
    for t in (0, 1, 2, 3, 1000):
        name, why = choose(torch.device("cpu"), torch.float32, t)
        assert name in BACKENDS
        assert why


def test_wrong_arguments_name_the_value():
    inputs = make()
    with pytest.raises(UserError, match="no backend 'triton'"):
        run(**inputs, backend="triton")
    with pytest.raises(ValueError, match=r"initial_state has shape \(3, 5, 6\), expected \(3, 6, 6\)"):
        run(**{**inputs, "initial_state": inputs["initial_state"][:, 1:]})
    with pytest.raises(ValueError, match=r"C has shape \(6, 3\), expected \(5, 3\)"):
        run(**{**inputs, "x": inputs["x"][..., 1:]})


# --- gaps


LONG = [[3, 0, 0, 5.2, 0, 0, 1], [0, 0, 300, 0.4, 0, 12, 0]]  # time is cut
SHORT = [[2, 0, 0, 3.2, 0, 0, 1], [0, 0, 4, 0.4, 0, 2, 300]]  # steps are inserted; row 1 ends before 300
BEGIN = [[0, 0, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0, 1]]  # resets


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("gap", [LONG, SHORT], ids=["long", "short"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gap_is_so_many_steps_without_input(kind, gap, resets):
    gap, lengths = torch.tensor(gap, dtype=torch.float64), torch.tensor([7, 6])
    reset = torch.tensor(BEGIN).bool() if resets else None

    def at_once(x, initial_state, **parameters):
        system = Prepared(system_of(**parameters))
        return op.lti_with_gaps(x, system, gap, initial_state=initial_state, lengths=lengths, reset=reset)

    def step_by_step(x, initial_state, **parameters):
        system, ys, ends = system_of(**parameters), [], []
        for row, n in enumerate(lengths.tolist()):
            z, y = initial_state[row : row + 1], []
            for i in range(n):
                silent = x.new_zeros(1, min(round(gap[row, i].item()), MOST), x.shape[2])
                _, z = lti(silent, system, initial_state=z, backend="naive")
                z = torch.zeros_like(z) if resets and BEGIN[row][i] else z
                out, z = lti(x[row : row + 1, i : i + 1], system, initial_state=z, backend="naive")
                y.append(out)
            ys.append(torch.nn.functional.pad(torch.cat(y, 1), (0, 0, 0, 7 - n)))
            ends.append(z)
        return torch.cat(ys), torch.cat(ends)

    assert_agree(at_once, step_by_step, make(kind, b=2, t=7), tolerance=1e-11)


def test_an_hour_and_a_row_of_no_steps():
    inputs = make("legs", b=2, t=3)
    x, state = inputs.pop("x"), inputs.pop("initial_state")
    gap = torch.full((2, 3), 90_000.0, dtype=torch.float64)
    lengths = torch.tensor([3, 0])
    y, after = op.lti_with_gaps(x, Prepared(system_of(**inputs)), gap, initial_state=state, lengths=lengths)
    assert y.isfinite().all()
    assert torch.equal(after[1], state[1])
