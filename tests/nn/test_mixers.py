"""Mixers: the contract at every block size; the names, shapes and formulas of the papers and of state-spaces/mamba."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from samba_asr import nn
from samba_asr.config import MIXERS, CausalMixerConfig, Mamba2Config, mixer_config
from samba_asr.errors import UserError
from samba_asr.nn.blocks import BlockBidirectional, Unidirectional
from samba_asr.nn.mixers import Hydra, Mamba, Mamba2, build_mixer, mixers
from samba_asr.nn.mixers.common import GatedRMSNorm
from samba_asr.ops import conv1d, device, quasiseparable, selective_scan, spectrum, ssd
from samba_asr.ops.blocks import lay_blocks
from samba_asr.ops.device import KERNELS
from samba_asr.streaming import leaves
from tests.contract import InBlocks, parameter_shapes, verify_streaming
from tests.ops.checks import every_backend

TINY = Mamba2Config(d_state=3, headdim=4, d_conv=4)
D = 8
NAMES = tuple(mixers)


def tiny(name, **values):
    """The smallest configuration of a mixer; complex states come in pairs, so their number is even."""
    values = {"d_state": 4, "headdim": 4, "d_conv": 4} | values
    return mixer_config(name, **{key: v for key, v in values.items() if key in MIXERS[name].__dataclass_fields__})


def x(b=4, t=13, dtype=torch.float64):
    return torch.randn(b, t, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def whole(t=7):
    """One row of t steps, in one block."""
    lengths = torch.tensor([t])
    return x(1, t), lengths, lay_blocks(lengths, t, t)


# --- the contract


@pytest.mark.parametrize("name", ["mamba", "mamba2", "longvq"])
def test_causal_mixers_keep_the_law(name):
    verify_streaming(mixers.build(name, D, tiny(name)), x())


@pytest.mark.parametrize("init", ["lin", "inv", "legs"])
def test_mamba_with_complex_states_keeps_the_law(init):
    verify_streaming(Mamba(D, tiny("mamba", init=init)), x(), seeds=[0])
    for size in (3, (1, 2, 6, 3)):
        verify_streaming(InBlocks(build_mixer(D, tiny("mamba", init=init)), size), x(), seeds=[0])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100, (1, 2, 6, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_every_mixer_keeps_the_law_at_every_block_size(name, size):
    verify_streaming(InBlocks(build_mixer(D, tiny(name)), size), x())


@pytest.mark.parametrize("d_conv", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_short_kernels_keep_the_law(name, d_conv):
    config = tiny(name, d_conv=d_conv)
    verify_streaming(InBlocks(build_mixer(D, config), 3), x(), seeds=[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_block_sees_itself_and_the_past_alone(name):
    module = build_mixer(D, tiny(name)).double()
    changed = x()
    changed[:, 6:] += 1
    lengths = torch.full((4,), 13)
    blocks = lay_blocks(lengths, 13, 3)
    before, after = module(x(), lengths, blocks)[0], module(changed, lengths, blocks)[0]
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-12)
    offset = (before - after).abs().amax((0, 2))
    assert (offset[6:] > 1e-6).all()


@pytest.mark.parametrize("name", NAMES)
def test_inside_a_block_the_future_counts(name):
    module = build_mixer(D, tiny(name)).double()
    v, lengths, blocks = whole()
    v.requires_grad_()
    module(v, lengths, blocks)[0][0, 0].sum().backward()
    assert (v.grad[0].abs().amax(-1) > 0).all()


# --- names and shapes of state-spaces/mamba, d_model 8, expand 2, d_state 3, d_conv 4, headdim 4


def test_mambas_parameters():
    assert parameter_shapes(Mamba(D, tiny("mamba", d_state=3))) == {
        "in_proj.weight": (32, 8),
        "conv1d.weight": (16, 1, 4),
        "conv1d.bias": (16,),
        "x_proj.weight": (1 + 2 * 3, 16),
        "dt_proj.weight": (16, 1),
        "dt_proj.bias": (16,),
        "A_log": (16, 3),
        "D": (16,),
        "out_proj.weight": (8, 16),
    }


def test_mamba2s_parameters():
    assert parameter_shapes(Mamba2(D, TINY)) == {
        "in_proj.weight": (2 * 16 + 2 * 3 + 4, 8),
        "conv1d.weight": (16 + 2 * 3, 1, 4),
        "conv1d.bias": (16 + 2 * 3,),
        "dt_bias": (4,),
        "A_log": (4,),
        "D": (4,),
        "norm.weight": (16,),
        "out_proj.weight": (8, 16),
    }


SPARED = {
    "mamba": {"A_log", "D", "dt_proj.bias"},
    "mamba2": {"A_log", "D", "dt_bias"},
    "hydra": {"A_log", "D", "dt_bias"},
    "longvq": {"A_log", "D", "dt_bias", "memory_A_log", "write_bias", "read_bias"},
    "s4": {"log_A_real", "A_imag", "B", "P", "log_dt", "D"},
    "s4d": {"log_A_real", "A_imag", "B", "log_dt", "D"},
    "paragru": {"A", "D", "bias"},
    "paralstm": {"A", "C", "D", "bias"},
}


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_spares_what_state_spaces_mamba_spares(name):
    module = mixers.build(name, D, tiny(name))
    spared = {n for n, p in module.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert spared == SPARED[name]


@pytest.mark.parametrize(("low", "high"), [(0.001, 0.1), (0.001, 1.0), (0.01, 0.01)])
@pytest.mark.parametrize("name", ["mamba", "mamba2", "hydra"])
def test_initial_steps_lie_in_their_range(name, low, high):
    module = mixers.build(name, 256, tiny(name, dt_min=low, dt_max=high, headdim=1))
    dt = F.softplus((module.dt_proj.bias if name == "mamba" else module.dt_bias).detach())
    assert low * 0.999 <= dt.min() <= dt.max() <= high * 1.001
    if low < high:  # log-uniform: half of them below the geometric mean
        below = (dt < (low * high) ** 0.5).float().mean().item()
        assert abs(below - 0.5) < 0.15


def test_initial_decay_rates():
    assert torch.equal(
        Mamba(D, tiny("mamba", d_state=3)).A_log.exp().round(), torch.tensor([1.0, 2.0, 3.0]).expand(16, 3)
    )  # S4D-real
    for mixer in (Mamba2, Hydra):
        A = mixer(D, dataclasses.replace(TINY, headdim=1)).A_log.exp()
        assert 1 <= A.min() <= A.max() <= 16


# --- formulas, step by step


def convolved(v, conv1d, past):
    """(t, d): a depthwise convolution written as a sum over taps; tap `past` is the current step."""
    taps, t = conv1d.weight[:, 0].T, len(v)
    return conv1d.bias + torch.stack(
        [
            sum((taps[j] * v[i + j - past] for j in range(len(taps)) if 0 <= i + j - past < t), v.new_zeros(v.shape[1]))
            for i in range(t)
        ]
    )


def test_mamba_is_the_papers_recurrence():
    m, (v, lengths, _) = Mamba(D, tiny("mamba", d_state=3)).double(), whole()
    u, z = m.in_proj(v[0]).chunk(2, -1)
    u = F.silu(convolved(u, m.conv1d, 3))
    h, ys = v.new_zeros(16, 3), []
    for u_t, z_t in zip(u, z, strict=True):
        dt, B, C = m.x_proj(u_t).split([1, 3, 3])
        dt = F.softplus(m.dt_proj(dt))
        h = torch.exp(dt[:, None] * -m.A_log.exp()) * h + dt[:, None] * B * u_t[:, None]
        ys.append(m.out_proj((h @ C + m.D * u_t) * F.silu(z_t)))
    torch.testing.assert_close(m(v, lengths)[0][0], torch.stack(ys))


def test_mamba_with_complex_states_is_the_recurrence_of_complex_numbers():
    m, (v, lengths, _) = Mamba(D, tiny("mamba", init="lin")).double(), whole()
    u, z = m.in_proj(v[0]).chunk(2, -1)
    u = F.silu(convolved(u, m.conv1d, 3))
    A, h, ys = torch.complex(-m.A_log.exp(), m.A_imag), torch.zeros(16, 2, dtype=torch.complex128), []
    for u_t, z_t in zip(u, z, strict=True):
        dt, B, C = m.x_proj(u_t).split([1, 4, 4])
        dt, B, C = F.softplus(m.dt_proj(dt))[:, None], torch.complex(*B.chunk(2)), torch.complex(*C.chunk(2))
        h = torch.exp(dt * A) * h + dt * B * u_t[:, None]
        ys.append(m.out_proj((2 * (h @ C).real + m.D * u_t) * F.silu(z_t)))
    torch.testing.assert_close(m(v, lengths)[0][0], torch.stack(ys))


def test_mamba_begins_with_the_spectrum_that_init_names():
    assert parameter_shapes(Mamba(D, tiny("mamba"))).get("A_imag") is None
    assert torch.equal(Mamba(D, tiny("mamba", init="real")).A_log, Mamba(D, tiny("mamba")).A_log)
    m = Mamba(D, tiny("mamba", init="lin"))
    assert (parameter_shapes(m)["A_log"], parameter_shapes(m)["A_imag"]) == ((16, 2), (16, 2))
    torch.testing.assert_close(m.A_log.exp().detach(), torch.full((16, 2), 0.5))
    torch.testing.assert_close(m.A_imag.detach(), torch.tensor([0, torch.pi]).expand(16, 2))
    assert F.softplus(m.dt_proj.bias).max() <= 0.1001  # the fastest mode turns less than a half circle a step
    spared = {n for n, p in m.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert spared == {"A_log", "A_imag", "D", "dt_proj.bias"}
    for init, known in (("legz", "lin, inv, legs, real"), ("legt", "lin, inv, legs, real")):
        with pytest.raises(UserError, match=f"model.mixer.init={init}: there are {known}"):
            Mamba(D, tiny("mamba", init=init))
    with pytest.raises(UserError, match="d_state=3: complex states come in pairs"):
        Mamba(D, tiny("mamba", init="lin", d_state=3))


def rms_norm(y, weight):
    return y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def test_mamba2_is_the_papers_recurrence():
    m, (v, lengths, _) = Mamba2(D, TINY).double(), whole()
    z, u, dt = m.in_proj(v[0]).split([16, 22, 4], -1)
    u, B, C = F.silu(convolved(u, m.conv1d, 3)).split([16, 3, 3], -1)
    dt = F.softplus(dt + m.dt_bias)
    h, ys = v.new_zeros(4, 4, 3), []  # (heads, headdim, d_state)
    for t in range(len(u)):
        heads = u[t].view(4, 4)
        h = torch.exp(dt[t] * -m.A_log.exp())[:, None, None] * h + (dt[t][:, None] * heads)[..., None] * B[t]
        ys.append((h @ C[t] + m.D[:, None] * heads).flatten() * F.silu(z[t]))
    torch.testing.assert_close(m(v, lengths)[0][0], m.out_proj(rms_norm(torch.stack(ys), m.norm.weight)))


def test_hydra_in_one_block_is_a_quasiseparable_matrix():
    """arXiv 2407.09941, definition 3.1, every element of the matrix written out."""
    t = 7
    m, (v, lengths, blocks) = Hydra(D, TINY).double(), whole(t)
    z, u, dt = m.in_proj(v[0]).split([16, 16 + 4 * 3, 2 * 4], -1)
    u, B, C, B_, C_ = F.silu(convolved(u, m.conv1d.conv1d, 3)).split([16, 3, 3, 3, 3], -1)
    dt, dt_ = (F.softplus(part + m.dt_bias) for part in dt.chunk(2, -1))  # (t, heads): forward, backward
    A = -m.A_log.exp()
    skip = u @ m.fc_D.weight.T + m.D  # (t, heads)
    matrix = v.new_zeros(4, t, t)
    for head, i, j in itertools.product(range(4), range(t), range(t)):
        if i == j:
            matrix[head, i, j] = skip[i, head]
        elif i > j:  # i reads the state before it, which j entered
            matrix[head, i, j] = C[i - 1] @ B[j] * dt[j, head] * torch.exp(A[head] * dt[j + 1 : i, head].sum())
        else:  # i reads the state after it
            matrix[head, i, j] = C_[i + 1] @ B_[j] * dt_[j, head] * torch.exp(A[head] * dt_[i + 1 : j, head].sum())
    y = torch.einsum("hij,jhp->ihp", matrix, u.view(t, 4, 4)).flatten(1)
    want = m.out_proj(rms_norm(y * F.silu(z), m.norm.weight))
    torch.testing.assert_close(m(v, lengths, blocks)[0][0], want)


def test_the_gated_norm_gates_before_it_norms():
    norm = GatedRMSNorm(5)
    torch.nn.init.normal_(norm.weight)
    y, z = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    torch.testing.assert_close(norm(y, z), rms_norm(y * F.silu(z), norm.weight))


# --- with Triton's kernels, interpreted


@every_backend(["triton"])
@pytest.mark.parametrize("sizes", [(13, 13, 13), (3, 5, 100)])
@pytest.mark.parametrize("name", NAMES)
def test_every_mixer_is_the_same_with_the_kernels(name, sizes, backend, monkeypatch, poisoned_empty):
    module, device = (build_mixer(D, tiny(name)), "cuda" if torch.cuda.is_available() else "cpu")
    lengths = torch.tensor([13, 6, 0])

    def found():
        on = module.to(device)
        v = x(3, dtype=torch.float32).to(device).requires_grad_()
        blocks = lay_blocks(lengths.to(device), 13, torch.tensor(sizes).to(device))
        y, _, state = on.step(v, lengths.to(device), on.init_state(3, device=device, dtype=v.dtype), blocks)
        y = torch.cat([row[:n].flatten() for row, n in zip(y, lengths, strict=True)])
        weights = torch.arange(y.numel(), device=device).cos()
        return [y, *leaves(state), *torch.autograd.grad((y * weights).sum(), [v, *on.parameters()])]

    want = found()
    monkeypatch.setenv(KERNELS, backend)
    for a, b in zip(found(), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


OPS = (selective_scan, ssd, conv1d, quasiseparable)


def backends(dtype=torch.float32) -> list[str]:
    """Return the backend of each op for a CUDA tensor."""
    return [op.choose(torch.device("cuda"), dtype, 100)[0] for op in OPS]


@pytest.mark.parametrize(("capability", "chosen"), [((9, 0), "triton"), ((8, 0), "triton"), ((7, 5), None)])
def test_kernels_are_the_default_on_newer_gpus(monkeypatch, capability, chosen):
    plain = ["chunk", "chunk", "torch", "torch"]
    monkeypatch.setattr(device, "capability", lambda _: capability)
    monkeypatch.setattr(device, "HAS_TRITON", True)
    assert backends() == ([chosen] * 4 if chosen else plain)
    assert "triton" not in backends(torch.float64)
    monkeypatch.setenv(KERNELS, "none")
    assert backends() == plain
    monkeypatch.setenv(KERNELS, "triton")
    assert backends() == ["triton"] * 4
    monkeypatch.delenv(KERNELS)
    monkeypatch.setattr(device, "HAS_TRITON", False)
    assert backends() == plain


# --- by name


def test_a_causal_mixer_reads_both_ways_unless_told_otherwise():
    for name in NAMES:
        config = tiny(name)
        if not isinstance(config, CausalMixerConfig):
            continue
        assert isinstance(build_mixer(D, config), BlockBidirectional)
        assert isinstance(build_mixer(D, dataclasses.replace(config, bidirectional=False)), Unidirectional)
    assert isinstance(build_mixer(D, dataclasses.replace(TINY, name="hydra", bidirectional=False)), Hydra)


def test_the_guide_names_every_mixer_and_every_start():
    guide = (Path(nn.__file__).parent / "README.md").read_text()
    known = [*NAMES, *spectrum.HIPPO, *spectrum.DIAGONAL]
    assert [name for name in known if f"`{name}`" not in guide] == []


def test_an_unknown_mixer_is_named_with_the_nearest():
    with pytest.raises(UserError, match="unknown mixer 'hydro' \\(did you mean 'hydra'"):
        build_mixer(D, dataclasses.replace(TINY, name="hydro"))


@pytest.mark.parametrize("mixer", [Mamba2, Hydra])
def test_heads_must_divide_the_width(mixer):
    with pytest.raises(UserError, match=r"expand \* d_model = 16 must be a multiple of headdim 5"):
        mixer(D, dataclasses.replace(TINY, headdim=5))


# --- how they begin


@pytest.mark.parametrize("name", ["hydra", "mamba2"])
def test_with_a_max_1_every_head_begins_with_a_memory_of_a_frame_or_more(name):
    """A frame is where dt * -A = 1: what came before has decayed to 1 / e."""

    def memories(**options):
        kind = {"hydra": Hydra, "mamba2": Mamba2}[name]
        mixer = kind(2000, Mamba2Config(name=name, headdim=1, **options))
        return 1 / (F.softplus(mixer.dt_bias) * mixer.A_log.exp())

    torch.manual_seed(0)
    assert (memories() < 1).float().mean() == pytest.approx(0.28, abs=0.03)
    assert (memories(a_max=1.0) > 0.999).all()
    for a_max in (0.5, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"model\.mixer\.a_max"):
            memories(a_max=a_max)
