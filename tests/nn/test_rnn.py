"""ParaRNN's mixers: the papers' formulas, their initial memory, and a small state."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samba_asr.config import ParaGruConfig, ParaLstmConfig
from samba_asr.errors import UserError
from samba_asr.nn.mixers import ParaGru, ParaLstm
from samba_asr.streaming import leaves
from tests.contract import parameter_shapes, verify_streaming

D = 8
CONFIGS = {ParaGru: ParaGruConfig, ParaLstm: ParaLstmConfig}
both = pytest.mark.parametrize("kind", CONFIGS)


def make(kind, d_model=D, **values):
    return kind(d_model, CONFIGS[kind](**{"headdim": 4} | values))


def x(b=4, t=13):
    return torch.randn(b, t, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@both
def test_the_law(kind):
    verify_streaming(make(kind), x())


@both
def test_it_is_the_papers_recurrence(kind):
    torch.manual_seed(0)
    m, v = make(kind).double(), x(1, 9)
    u, z = m.in_proj(v[0]).chunk(2, -1)
    u = F.silu(F.conv1d(F.pad(u.T, (3, 0)), m.conv1d.weight, m.conv1d.bias, groups=16).T)
    matrices = [torch.block_diag(*m.B[:, gate]) for gate in range(3)]  # (16, 16) each: blocks of 4
    h, c, ys = torch.zeros(16), torch.zeros(16), []
    for u_t, z_t in zip(u, z, strict=True):
        first, second, candidate = (matrix @ u_t + bias for matrix, bias in zip(matrices, m.bias, strict=True))
        if kind is ParaGru:
            update = torch.sigmoid(m.A[0] * h + first)
            reset = torch.sigmoid(m.A[1] * h + second)
            h = (1 - update) * h + update * torch.tanh(m.A[2] * h * reset + candidate)
        else:
            forget = torch.sigmoid(m.A[0] * h + m.C[0] * c + first)
            c = forget * c + (1 - forget) * torch.tanh(m.A[2] * h + candidate)
            h = torch.sigmoid(m.A[1] * h + m.C[1] * c + second) * torch.tanh(c)
        ys.append(m.out_proj((h + m.D * u_t) * F.silu(z_t)))
    torch.testing.assert_close(m(v, torch.tensor([9]))[0][0], torch.stack(ys))


@both
def test_parameters(kind):
    shapes = {
        "in_proj.weight": (32, 8),
        "conv1d.weight": (16, 1, 4),
        "conv1d.bias": (16,),
        "B": (4, 3, 4, 4),
        "bias": (3, 16),
        "A": (3, 16),
        "D": (16,),
        "out_proj.weight": (8, 16),
    }
    assert parameter_shapes(make(kind)) == (shapes | {"C": (2, 16)} if kind is ParaLstm else shapes)


@both
def test_a_channel_that_gets_no_input_begins_with_the_memory_of_dt(kind):
    torch.manual_seed(0)
    m = make(kind, 256, dt_min=0.01, dt_max=1.0)
    kept = torch.sigmoid(m.bias[0] if kind is ParaLstm else -m.bias[0])
    dt = -kept.detach().log()
    assert 0.0099 <= dt.min() <= dt.max() <= 1.01
    assert abs((dt < 0.1).float().mean().item() - 0.5) < 0.15  # log-uniform
    assert not m.bias[1:].any()


@both
def test_the_state_is_a_number_or_two_a_channel(kind):
    conv, rnn = leaves(make(kind).init_state(2))
    assert conv.shape == (2, 3, 16)
    assert rnn.shape == ((2, 16) if kind is ParaGru else (2, 2, 16))


@both
def test_blocks_of_the_input_matrix_must_divide_the_width(kind):
    with pytest.raises(UserError, match=r"expand \* d_model = 16 must be a multiple of headdim 5"):
        make(kind, headdim=5)
