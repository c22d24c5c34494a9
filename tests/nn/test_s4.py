"""S4 and S4D as mixers: the contract for every initial spectrum, the formula, and what is kept between live steps."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from samba_asr.config import S4Config, S4dConfig
from samba_asr.errors import UserError
from samba_asr.nn.mixers import S4, S4d, build_mixer
from samba_asr.ops.lti import system as lti_system
from samba_asr.ops.spectrum import hippo
from samba_asr.streaming import leaves
from tests.contract import InBlocks, parameter_shapes, verify_streaming

D = 8
S4_INITS, S4D_INITS = ("legs", "legt", "fout"), ("lin", "inv", "legs", "real")
EVERY = [*((S4, init) for init in S4_INITS), *((S4d, init) for init in S4D_INITS)]


def tiny(kind, init="", **values):
    config = S4Config if kind is S4 else S4dConfig
    return config(**{"d_state": 4, "headdim": 4, "d_conv": 4, "init": init} | values)


def x(b=4, t=13, dtype=torch.float64):
    return torch.randn(b, t, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("kind", "init"), EVERY)
def test_every_spectrum_keeps_the_law(kind, init):
    verify_streaming(kind(D, tiny(kind, init)), x(), seeds=[0])
    verify_streaming(InBlocks(build_mixer(D, tiny(kind, init)), (1, 2, 6, 3)), x(), seeds=[0])


@pytest.mark.parametrize("kind", [S4, S4d])
def test_it_is_the_papers_recurrence(kind):
    """The state of each channel under the dense bilinear system, step by step."""
    torch.manual_seed(0)
    m, v = kind(D, tiny(kind)).double(), x(1, 9)
    u, z = m.in_proj(v[0]).chunk(2, -1)
    u = F.silu(F.conv1d(F.pad(u.T, (3, 0)), m.conv1d.weight, m.conv1d.bias, groups=16).T)
    B, C = torch.view_as_complex(m.B), torch.view_as_complex(m.C)
    y = torch.empty_like(u)
    for channel in range(16):
        head = channel // 4
        both = lambda w: torch.cat([w, w.conj()])  # noqa: E731
        A = torch.diag(both(torch.complex(-m.log_A_real[head].exp(), m.A_imag[head])))
        if kind is S4:
            p = both(torch.view_as_complex(m.P[0, head]))
            A = A - torch.outer(p, p.conj())
        half, eye = m.log_dt[head].exp() / 2 * A, torch.eye(4)
        state = torch.zeros(4, dtype=A.dtype)
        for i in range(9):
            change = (eye + half) @ state + m.log_dt[head].exp() * both(B[head]) * u[i, channel]
            state = torch.linalg.solve(eye - half, change)
            y[i, channel] = (both(C[channel]) @ state).real
    want = m.out_proj((y + m.D * u) * F.silu(z))
    torch.testing.assert_close(m(v, torch.tensor([9]))[0][0], want, rtol=1e-10, atol=1e-10)


def test_parameters():
    shapes = {
        "log_A_real": (4, 2),
        "A_imag": (4, 2),
        "B": (4, 2, 2),
        "C": (16, 2, 2),
        "P": (1, 4, 2, 2),
        "log_dt": (4,),
        "D": (16,),
        "in_proj.weight": (32, 8),
        "conv1d.weight": (16, 1, 4),
        "conv1d.bias": (16,),
        "out_proj.weight": (8, 16),
    }
    assert parameter_shapes(S4(D, tiny(S4))) == shapes
    assert parameter_shapes(S4(D, tiny(S4, "legt")))["P"] == (2, 4, 2, 2)
    del shapes["P"]
    assert parameter_shapes(S4d(D, tiny(S4d))) == shapes
    real = parameter_shapes(S4d(D, tiny(S4d, "real", d_state=3)))
    assert (real["log_A_real"], real["B"], real["C"]) == ((4, 3), (4, 3), (16, 3))
    assert "A_imag" not in real


@pytest.mark.parametrize(("kind", "init"), EVERY)
def test_they_can_be_planned_without_memory(kind, init):
    """A model folder is checked on torch's meta device before anything is built."""
    with torch.device("meta"):
        planned = kind(D, tiny(kind, init))
    assert parameter_shapes(planned) == parameter_shapes(kind(D, tiny(kind, init)))
    assert all(p.is_meta for p in planned.parameters())


@pytest.mark.parametrize(("kind", "init"), EVERY)
def test_states_and_parameters_are_real(kind, init):
    module = kind(D, tiny(kind, init))
    assert all(not v.is_complex() for v in [*module.parameters(), *leaves(module.init_state(2))])
    assert module.init_state(2).ssm.shape == (2, 16, 4)


def test_every_head_begins_with_the_matrix():
    system, form = S4(D, tiny(S4, d_state=8)).system(), hippo("legs", 8)
    for head in range(4):
        torch.testing.assert_close(system.A[head], form.A.to(torch.complex64))
        torch.testing.assert_close(system.B[head], form.B.to(torch.complex64))
        torch.testing.assert_close(system.P[0, head], form.P[0].to(torch.complex64))


@pytest.mark.parametrize(
    ("kind", "init", "dt_max", "largest"), [(S4, "legs", 1.0, 0.1), (S4d, "lin", 0.05, 0.05), (S4d, "real", 1.0, 1.0)]
)
def test_steps_begin_as_an_even_grid_and_oscillating_ones_below_a_tenth(kind, init, dt_max, largest):
    found = kind(D, tiny(kind, init, headdim=1, dt_max=dt_max)).log_dt
    torch.testing.assert_close(found.detach(), torch.linspace(math.log(0.001), math.log(largest), 16))


def test_errors():
    for kind, known in ((S4, "legs, legt, fout"), (S4d, "lin, inv, legs, real")):
        with pytest.raises(UserError, match=f"model.mixer.init=haar: there are {known}"):
            kind(D, tiny(kind, "haar"))
        with pytest.raises(UserError, match="d_state=3: complex states come in pairs"):
            kind(D, tiny(kind, d_state=3))
        with pytest.raises(UserError, match=r"expand \* d_model = 16 must be a multiple of headdim 5"):
            kind(D, tiny(kind, headdim=5))


# --- live, the matrices of chunks are kept


@pytest.fixture
def computed(monkeypatch):
    """Each chunk size whose matrices are computed."""
    found, close = [], lti_system.close
    monkeypatch.setattr(lti_system, "close", lambda system, q: [found.append(q), close(system, q)][1])
    return found


def run(module, v):
    return module(v, torch.full((len(v),), v.shape[1]))[0]


@torch.no_grad()
def test_the_matrices_are_computed_once(computed):
    module, v = S4(D, tiny(S4)).eval(), x(2, 8, torch.float32)
    first = run(module, v)
    assert torch.equal(run(module, v), first)
    assert computed == [8]
    module(v, torch.tensor([8, 5]))
    module(v, torch.tensor([3, 8]))
    assert computed == [8, 1]  # the powers of one step, for rows that end early


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.C.mul_(1.1),
        lambda m: torch._foreach_lerp_([m.log_dt], [torch.zeros(4)], 0.5),
        lambda m: setattr(m.P, "data", m.P.data * 1.1),
        lambda m: setattr(m, "B", torch.nn.Parameter(m.B * 1.1)),
        lambda m: m.load_state_dict(S4(D, tiny(S4, "legs")).state_dict()),
        lambda m: m.load_state_dict(S4(D, tiny(S4, "legs")).state_dict(), assign=True),
    ],
    ids=["in place", "foreach", "data", "another parameter", "loaded", "assigned"],
)
def test_a_changed_parameter_changes_them(change):
    module, v = S4(D, tiny(S4)).eval(), x(2, 8, torch.float32)
    before = run(module, v)
    change(module)
    after = run(module, v)
    assert not torch.equal(before, after)
    fresh = S4(D, tiny(S4)).eval()
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(run(fresh, v), after)


def test_an_optimizer_changes_them():
    module, v = S4(D, tiny(S4)), x(2, 8, torch.float32)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)

    def evaluated():
        with torch.inference_mode():
            return run(module.eval(), v)

    before = evaluated()
    run(module.train(), v).square().sum().backward()
    optimizer.step()
    assert not torch.equal(evaluated(), before)


def test_copies_in_another_dtype_have_their_own():
    module, v = S4(D, tiny(S4)).eval(), x(2, 8)
    with torch.no_grad():
        single = run(module, v.float())
        double = run(copy.deepcopy(module).double(), v)
        assert torch.equal(run(module, v.float()), single)
        assert torch.equal(run(pickle.loads(pickle.dumps(module)), v.float()), single)
    assert 0 < (double - single).abs().max() < 1e-5


def test_gradients_are_not_taken_from_what_is_kept():
    module, v = S4(D, tiny(S4)).eval(), x(2, 8, torch.float32)
    with torch.no_grad():
        run(module, v)
    run(module, v).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
