"""Elapsed time in scans: a gap is so many silent steps, forward and backward, for any cut of time (samba_asr.ops.elapsed)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.ops.blocks import backward_time, elapse, flip, lay_blocks
from samba_asr.ops.conv1d import block_conv1d
from samba_asr.ops.elapsed import BREAK, Elapsed, decay, wait
from samba_asr.ops.selective_scan import selective_scan
from samba_asr.ops.ssd import ssd

H, P, N = 3, 4, 5


def ssd_case(t=12, b=2):
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    given = draw(b, t, H, P), F.softplus(draw(b, t, H) - 1), -draw(H).exp(), draw(b, t, 1, N), draw(b, t, 1, N)
    return given, draw(H).exp() * 0.1, draw(b, H, P, N)


def run(given, idle, gap, state=None, lengths=None, **named):
    x, dt, A, B, C = given
    x, dt = wait(x, dt, idle, Elapsed(gap), lengths)
    return ssd(x, dt, A, B, C, initial_state=state, lengths=lengths, **named)


def with_silent_steps(given, idle, gap, state=None):
    """Return y and the state of one row in which every gap is written out as steps with x = 0 and dt = idle."""
    x, dt, A, B, C = given
    xs, dts, Bs, Cs, at = [], [], [], [], []
    for i in range(x.shape[1]):
        for _ in range(int(gap[0, i])):
            xs.append(torch.zeros_like(x[:, i]))
            dts.append(idle.expand_as(dt[:, i]))
            Bs.append(B[:, i])
            Cs.append(C[:, i])
        at.append(len(xs))
        for held, v in ((xs, x), (dts, dt), (Bs, B), (Cs, C)):
            held.append(v[:, i])
    y, state = ssd(
        torch.stack(xs, 1), torch.stack(dts, 1), A, torch.stack(Bs, 1), torch.stack(Cs, 1), initial_state=state
    )
    return y[:, at], state


def test_the_recurrence_in_numbers():
    """A = -2, idle = 0.1, B = C = 1; (x, dt, gap): (1, 0.2, 0), (3, 0.5, 4), (-1, 0.1, 1)."""
    row = lambda *values: torch.tensor(values, dtype=torch.float64)  # noqa: E731
    one, x, dt = row(1, 1, 1).view(1, 3, 1, 1), row(1, 3, -1).view(1, 3, 1, 1), row(0.2, 0.5, 0.1).view(1, 3, 1)
    A, idle, gap = row(-2), row(0.1), row(0, 4, 1)[None]
    y, _ = run((x, dt, A, one, one), idle, gap)
    h, want = 0.0, []
    for x_t, dt_t, gap_t in ((1, 0.2, 0), (3, 0.5, 4), (-1, 0.1, 1)):
        h = math.exp(-2 * (dt_t + 0.1 * gap_t)) * h + dt_t * x_t
        want.append(h)
    assert y.flatten().tolist() == pytest.approx(want, abs=1e-15)
    assert want == pytest.approx([0.2, 1.5330597776443173, 0.9276407007259256], abs=1e-15)


@given(gaps=st.lists(st.integers(0, 9), min_size=12, max_size=12))
def test_a_gap_is_so_many_silent_steps(gaps):
    (x, dt, A, B, C), idle, state = ssd_case(b=1)
    gap = torch.tensor([gaps]).double()
    for got, want in zip(
        run((x, dt, A, B, C), idle, gap, state), with_silent_steps((x, dt, A, B, C), idle, gap, state), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["naive", "chunk"])
def test_a_gap_is_so_many_silent_steps_in_the_selective_scan(backend):
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    b, t, d, n = 2, 12, 4, 3
    x, dt, A, idle = draw(b, t, d), F.softplus(draw(b, t, d)), -draw(d, n).exp(), draw(d).exp() * 0.1
    B, C = draw(b, t, n), draw(b, t, n)
    gap = torch.zeros(b, t).double()
    gap[:, 4], gap[0, 9], gap[:, 0] = 7, 2.5, 3
    y, state = selective_scan(*wait(x, dt, idle, Elapsed(gap), None), A, B, C, backend=backend)
    h, want = torch.zeros(b, d, n).double(), []
    for i in range(t):
        h = torch.exp((gap[:, i, None] * idle)[..., None] * A) * h
        h = torch.exp(dt[:, i, :, None] * A) * h + (dt[:, i] * x[:, i])[..., None] * B[:, i, None]
        want.append((h * C[:, i, None]).sum(-1))
    torch.testing.assert_close(y, torch.stack(want, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(state, h, rtol=0, atol=1e-12)


@given(cut=st.integers(0, 12))
def test_time_may_be_cut_anywhere(cut):
    given, idle, state = ssd_case()
    gap = torch.rand(2, 12, dtype=torch.float64) * 9
    x, dt, A, B, C = given
    y, last = run(given, idle, gap, state)
    first, middle = run((x[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut]), idle, gap[:, :cut], state)
    second, end = run((x[:, cut:], dt[:, cut:], A, B[:, cut:], C[:, cut:]), idle, gap[:, cut:], middle)
    torch.testing.assert_close(torch.cat([first, second], 1), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(end, last, rtol=0, atol=1e-12)


def test_padding_reaches_no_output_and_no_gradient():
    given, idle, _ = ssd_case()
    lengths, gap = torch.tensor([12, 5]), torch.full((2, 12), 2.0).double()
    x, dt, A, B, C = (v.clone() for v in given)
    x[1, 5:] = dt[1, 5:] = float("nan")
    x.requires_grad_(), dt.requires_grad_()
    y, state = run((x, dt, A, B, C), idle, gap, lengths=lengths)
    (y.sum() + state.sum()).backward()
    assert all(v.isfinite().all() for v in (y, x.grad, dt.grad))
    assert not x.grad[1, 5:].any()
    torch.testing.assert_close(
        state[1:], run(tuple(v[1:, :5] if v.dim() > 1 else v for v in given), idle, gap[1:, :5])[1]
    )


def test_steps_so_small_that_they_underflow_stay_finite():
    found = wait(torch.ones(1, 2, 1), torch.zeros(1, 2, 1), torch.ones(1), Elapsed(torch.zeros(1, 2)), None)
    assert all(v.isfinite().all() for v in found)


def test_no_gap_changes_nothing():
    (x, dt, *_), idle, _ = ssd_case()
    x_, dt_ = wait(x, dt, idle, Elapsed(torch.zeros(2, 12).double()), None)
    assert torch.equal(x_, x)
    assert torch.equal(dt_, dt)
    assert decay(-idle, idle, Elapsed(None)) is None


def test_a_span_lets_so_much_more_time_pass_in_one_step():
    (x, dt, A, B, C), idle, state = ssd_case()
    span = torch.rand(2, 12, dtype=torch.float64) * 3 + 0.5
    y, _ = ssd(*wait(x, dt, idle, Elapsed(None, span), None), A, B, C, initial_state=state)
    torch.testing.assert_close(y, ssd(x, dt * span[..., None], A, B, C, initial_state=state)[0])


# --- backward in time


@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_backward_the_gap_lies_behind_a_step(size):
    """In reversed time the gap before step i + 1 is met before step i, and none crosses the end of a block."""
    t = 10
    (x, dt, A, B, C), idle, _ = ssd_case(t, b=1)
    gap = torch.zeros(1, t).double()
    gap[0, 3], gap[0, 7], gap[0, 0] = 5, 2, 4
    blocks = elapse(lay_blocks(torch.tensor([t]), t, size), gap)

    def backward(time):
        x_, dt_ = wait(flip(x, blocks), flip(dt, blocks), idle, time, None)
        y, _ = ssd(x_, dt_, A, flip(B, blocks), flip(C, blocks), reset=blocks.start)
        return flip(y, blocks)

    want = torch.zeros_like(x)
    for begin in range(0, t, size):
        part = slice(begin, min(begin + size, t))
        backwards = tuple(v[:, part].flip(1) if v.dim() > 1 else v for v in (x, dt, A, B, C))
        behind = F.pad(gap[:, part][:, 1:], (0, 1)).flip(1)
        want[:, part] = with_silent_steps(backwards, idle, behind)[0].flip(1)
    torch.testing.assert_close(backward(backward_time(blocks)), want, rtol=0, atol=1e-12)
    if size > 1:
        assert (backward(Elapsed(flip(gap, blocks))) - want).abs().max() > 0.01  # the usual mistake


def test_what_stands_after_the_valid_steps_is_no_time():
    gap = torch.tensor([[1.0, 2, float("nan")], [1, 2, 3]])
    blocks = elapse(lay_blocks(torch.tensor([2, 3]), 3, 100), gap)
    assert blocks.before.gap.tolist() == [[1, 2, 0], [1, 2, 3]]
    assert blocks.after.gap.tolist() == [[2, 0, 0], [2, 3, 0]]


# --- convolutions


@pytest.mark.parametrize("size", [2, 4, 100])
@pytest.mark.parametrize("past", [0, 3])
def test_a_convolution_starts_again_at_a_long_gap_and_joins_over_a_short_one(size, past):
    t, d, future, keep = 11, 3, 2, torch.tensor([7])
    x = torch.randn(1, t, d, dtype=torch.float64)
    weight, state = torch.randn(d, past + 1 + future, dtype=torch.float64), torch.randn(1, past, d, dtype=torch.float64)
    gap = torch.zeros(1, t).double()
    gap[0, 2], gap[0, 6] = BREAK - 0.5, BREAK
    plain = lay_blocks(torch.tensor([t]), t, size)
    y, after = block_conv1d(x, weight, None, initial_state=state, blocks=elapse(plain, gap)._replace(keep=keep))
    before = torch.cat([state, x], 1)
    want = torch.zeros_like(x)
    for i in range(t):
        for j in range(past + 1 + future):
            k = i + j - past
            same_side = (i < 6) == (k < 6)
            inside = k <= i or (k < t and k // size == i // size)
            if same_side and inside and k >= -past:
                want[0, i] += weight[:, j] * before[0, k + past]
    torch.testing.assert_close(y, want)
    expected = before[:, 7 : 7 + past].clone()
    expected[:, : past - 1] = 0  # only step 6 is on this side of the gap
    torch.testing.assert_close(after, expected)
