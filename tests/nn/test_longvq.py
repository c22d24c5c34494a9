"""LongVQ: the memory is attention to quantized keys; it keeps to float32, to its rows and to its resets."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from samba_asr.config import LongVqConfig
from samba_asr.errors import UserError
from samba_asr.nn.blocks import BlockBidirectional
from samba_asr.nn.mixers import LongVq, Mamba2, build_mixer
from samba_asr.nn.mixers.longvq import KEY
from samba_asr.ops.ssd import ssd
from tests.contract import parameter_shapes
from tests.support.codes import published, wave

D = 8
TINY = LongVqConfig(d_state=3, headdim=4, codes=5)


def read(hot, q, v, write, A, codes):
    """What is read (9, 2), by the scan, and the final state."""
    x = torch.cat([v, torch.ones(9, 1, dtype=v.dtype)], -1)[None, :, None]
    scores = (q @ codes.T / math.sqrt(3)).exp()[None, :, None]
    y, memory = ssd(x, write[None, :, None], torch.tensor([A], dtype=v.dtype), hot[None, :, None], scores)
    return y[0, :, 0, :2] / y[0, :, 0, 2:], memory[0, 0]


def test_the_memory_of_the_smallest_example():
    """Numbers computed apart, from the quadratic form and from a loop over sums for each code."""
    book, k, q, v = published()
    hot = book(k[None], None)[0]
    assert hot.argmax(-1).tolist() == [3, 2, 3, 2, 1, 0, 1, 0, 2]
    assert set(hot.flatten().tolist()) == {0.0, 1.0}
    o, memory = read(hot, q, v, torch.ones(9).double(), 0.0, book.codes)
    torch.testing.assert_close(o[0], v[0])
    want = torch.tensor([0.1283785507, 0.0096196348], dtype=torch.float64)
    torch.testing.assert_close(o[8], want, rtol=0, atol=1e-9)
    assert memory[2].tolist() == pytest.approx([2, 2, 3, 2])
    sums = [[0.8608568138, 0.0164396931, -0.0340835266, 0.8630619605]]
    sums += [[0.9771100074, 0.5083966838, -1.0283372902, 0.5123812966]]
    torch.testing.assert_close(memory[:2], torch.tensor(sums, dtype=torch.float64), rtol=0, atol=1e-9)
    write = 0.5 + 0.4 * torch.cos(0.8 * torch.arange(9, dtype=torch.float64))
    o, memory = read(hot, q, v, write, -0.3, book.codes)
    torch.testing.assert_close(o[8], torch.tensor([0.3128410986, 0.0098126769], dtype=torch.float64), rtol=0, atol=1e-9)
    counts = torch.tensor([0.7407452704, 0.3683729282, 1.2832943458, 0.4783886979], dtype=torch.float64)
    torch.testing.assert_close(memory[2], counts, rtol=0, atol=1e-9)


def test_the_gradient_goes_straight_through():
    book, k, q, v = published()
    k.requires_grad_()
    write = 0.5 + 0.4 * torch.cos(0.8 * torch.arange(9, dtype=torch.float64))
    o, _ = read(book(k[None], None)[0], q, v, write, -0.3, book.codes)
    (gradient,) = torch.autograd.grad((o * wave(9, 2, step=0.21)).sum(), k)
    want = torch.tensor([-0.0696695365, -0.0898868070, 0.0215803054], dtype=torch.float64)
    torch.testing.assert_close(gradient[0], want, rtol=0, atol=1e-9)
    assert gradient.norm().item() == pytest.approx(0.4136145185, abs=1e-9)


def mixer(dtype=torch.float64, **values):
    torch.manual_seed(0)
    return LongVq(D, LongVqConfig(**{"d_state": 3, "headdim": 4, "codes": 5, **values})).to(dtype).eval()


def inputs(m, b=2, t=23, dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    h = m.heads
    shapes = [(b, t, h, 16 // h), (b, t, KEY), (b, t, h * KEY), (b, t, h)]
    return [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]


def attention(m, v, k, q, write):
    """The memory by its definition, quadratic in time."""
    k, q = (F.rms_norm(w, (KEY,)) / KEY**0.25 for w in (k, q.unflatten(-1, (m.heads, KEY))))
    c = m.codebook.codes
    distance = (k[:, :, None] - c).square().sum(-1)
    soft = (-distance).softmax(-1)
    hot = F.one_hot(distance.argmin(-1), len(c)) + soft - soft.detach()  # (b, t, s)
    w = (write + m.write_bias).sigmoid()  # (b, t, h)
    past = (w * -m.memory_A_log.exp()).cumsum(1)
    decay = (past[:, :, None] - past[:, None]).exp()  # (b, i, j, h): from step j to step i
    t = v.shape[1]
    causal = torch.ones(t, t).tril().to(v.dtype)[None, :, :, None]
    a = torch.einsum("bihs,bjs->bijh", (q @ c.T).exp(), hot) * causal * decay * w[:, None]
    return torch.einsum("bijh,bjhp->bihp", a, v) / a.sum(2)[..., None]


def test_the_memory_is_attention_to_quantized_keys_in_value_and_gradient():
    m = mixer()
    m.memory_A_log.data.fill_(-2)
    given = [v.requires_grad_() for v in inputs(m)]
    state = m.init_state(2, dtype=torch.float64).memory
    o, _ = m.remember(*given, state, None, None, None)
    want = attention(m, *given)
    torch.testing.assert_close(o, want, rtol=0, atol=1e-12)
    weights = torch.arange(o.numel()).cos().view(o.shape)
    parameters = [*given, m.write_bias, m.memory_A_log]
    found, wanted = (torch.autograd.grad((y * weights).sum(), parameters) for y in (o, want))
    for a, b in zip(found, wanted, strict=True):
        assert b.abs().max() > 1e-6
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_a_row_without_a_valid_step_is_no_division_by_nothing():
    m, x = mixer(), torch.randn(2, 5, D, dtype=torch.float64)
    x[1] = float("nan")
    x.requires_grad_()
    y, _, state = m.step(x, torch.tensor([5, 0]), m.init_state(2, dtype=torch.float64))
    assert y.isfinite().all()
    (gradient,) = torch.autograd.grad(y[0].sum(), x)
    assert gradient.isfinite().all()
    assert not gradient[1].any()
    assert not state.memory[1].any()


def test_a_reset_forgets_the_memory():
    m, x = mixer(), torch.randn(1, 12, D, dtype=torch.float64)
    reset = (torch.arange(12) == 7)[None]
    y = m.step(x, None, m.init_state(1, dtype=torch.float64), reset=reset).x
    fresh = m.step(x[:, 7:], None, m.init_state(1, dtype=torch.float64)).x
    torch.testing.assert_close(y[:, 7:], fresh)


def test_under_autocast_the_memory_counts_beyond_256():
    m = mixer(torch.float32)
    m.memory_A_log.data.fill_(-30)  # forgets nothing
    given = [v.bfloat16() for v in inputs(m, 1, 2000, torch.float32)]
    start = m.init_state(1, dtype=torch.bfloat16)
    assert start.memory.dtype == torch.float32
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        o, memory = m.remember(*given, start.memory, None, None, None)
        y = m.step(torch.randn(1, 2000, D), None, m.init_state(1)).state.memory
    want = attention(m.double(), *(v.double() for v in given))
    assert (o - want).abs().max() < 2e-2
    assert memory[0, 0, -1].sum() == pytest.approx(torch.sigmoid(given[3][..., 0].double()).sum().item(), rel=0.02)
    assert y[0, :, -1].sum(-1).min() > 500


def test_backward_inside_blocks_it_is_mamba_2():
    built = build_mixer(D, TINY)
    assert isinstance(built, BlockBidirectional)
    assert (type(built.forward_mixer), type(built.backward_mixer)) == (LongVq, Mamba2)


def test_how_it_begins():
    m = LongVq(D, LongVqConfig(headdim=1))
    memory = m.memory_A_log.neg().exp()
    assert 249.9 < memory.min() <= memory.max() < 2500.1
    assert m.codebook.codes.norm(dim=-1).mean() == pytest.approx(KEY**0.25, rel=0.2)  # as long as a key
    assert parameter_shapes(LongVq(D, TINY)) == {
        "in_proj.weight": (16 + 16 + 16 + 4 * 16 + 2 * 3 + 3 * 4, 8),
        "conv1d.weight": (16 + 16 + 4 * 16 + 2 * 3, 1, 4),
        "conv1d.bias": (16 + 16 + 4 * 16 + 2 * 3,),
        "dt_bias": (4,),
        "A_log": (4,),
        "D": (4,),
        "memory_A_log": (4,),
        "write_bias": (4,),
        "read_bias": (4,),
        "norm.weight": (16,),
        "out_proj.weight": (8, 16),
    }
    for wrong, message in (
        ({"headdim": 5}, "multiple of headdim 5"),
        ({"headdim": 4, "codes": 1}, r"codes=1: give 2 or more"),
    ):
        with pytest.raises(UserError, match=message):
            LongVq(D, LongVqConfig(**wrong))
