"""Sums of gradients in buckets: what a plain sum over ranks gives, in one order on all ranks, whatever each of them computes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from samba_asr.training import buckets
from samba_asr.training.buckets import RankSum, pack
from samba_asr.training.optim import GradientSum

SIZES = (3, 5, 2, 7, 1)


class Wire:
    """Stands in for two ranks' all-reduce: the first rank's buckets wait for those of the second."""

    def __init__(self):
        self.first: list[torch.Tensor] = []
        self.second: list[torch.Tensor] = []
        self.rank = self.first

    def all_reduce(self, flat, async_op):
        assert async_op
        self.rank.append(flat)
        return SimpleNamespace(wait=lambda: None)

    def meet(self):
        assert [x.shape for x in self.first] == [x.shape for x in self.second]  # else ranks would wait for ever
        for a, b in zip(self.first, self.second, strict=True):
            a += b
            b.copy_(a)


@pytest.fixture(scope="module")
def wire():
    with pytest.MonkeyPatch.context() as patch:
        wire = Wire()
        patch.setattr(buckets.dist, "all_reduce", wire.all_reduce)
        yield wire


def model(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(n, generator=generator)) for n in SIZES]


def backward(parameters, used, seed, factor=1.0):
    """A batch that uses some parameters; the gradient of each is random, times `factor`."""
    weights = model(seed)
    terms = [(p * w.detach() * factor).sum() for p, w, u in zip(parameters, weights, used, strict=True) if u]
    if terms:
        sum(terms).backward()


def step(parameters, summing, work, bad=False, fails=False):
    """All batches of a step, up to `flush`; each is the parameters that it uses.  fails: its last pass is computed again."""
    for attempt in range(1 + fails):
        kept = GradientSum(parameters)
        for p in parameters:
            p.grad = None
        for i, used in enumerate(work):
            if i < len(work) - 1:
                backward(parameters, used, i)
                kept.take(unless=torch.zeros(()))
                continue
            flag = torch.tensor([bad])
            with summing.last_pass(kept, flag):
                part = [u and not (fails and not attempt and n < 2) for n, u in enumerate(used)]
                backward(parameters, part, i, factor=float("nan") if bad else 1.0)
            kept.take(unless=flag[0])
        kept.give_back()
    summing.flush()


batches = st.lists(st.tuples(*[st.booleans()] * len(SIZES)), max_size=3)


@given(first=batches, second=batches, bad=st.booleans(), fails=st.booleans(), size=st.sampled_from([1, 30, 1000]))
def test_the_sum_is_the_plain_one_whatever_a_rank_uses_leaves_out_or_repeats(wire, first, second, bad, fails, size):
    wire.first.clear()
    wire.second.clear()
    ranks, alone = [], model(0)
    for sent, work, spoiled in ((wire.first, first, bad), (wire.second, second, False)):
        wire.rank = sent
        parameters = model(0)
        ranks.append((parameters, RankSum(parameters, size=size)))
        step(*ranks[-1], work, spoiled, fails)
        for i, used in enumerate(work):
            backward(alone, used, i, factor=0.0 if spoiled and i == len(work) - 1 else 1.0)
    wire.meet()
    for parameters, summing in ranks:
        summing.finish()
        for p, wanted in zip(parameters, alone, strict=True):
            assert (p.grad is None) == (wanted.grad is None)
            if p.grad is not None:
                torch.testing.assert_close(p.grad, wanted.grad)


def test_full_buckets_are_sent_within_the_last_pass_alone(wire):
    wire.first.clear()
    wire.rank = wire.first
    parameters = model(0)
    summing = RankSum(parameters, size=30)
    everything, kept = [True] * len(SIZES), GradientSum(parameters)
    backward(parameters, everything, 1)  # accumulates, and sends nothing
    kept.take(unless=torch.zeros(()))
    assert wire.first == []
    with summing.last_pass(kept, torch.tensor([False])):
        backward(parameters, everything, 2)
        assert len(wire.first) == len(summing.buckets) > 1
    summing.flush()
    assert len(wire.first) == len(summing.buckets)


def test_a_parameter_that_is_not_used_waits_for_flush_and_not_for_ever(wire):
    wire.first.clear()
    wire.rank = wire.first
    parameters = model(0)
    summing = RankSum(parameters, size=1)
    with summing.last_pass(GradientSum(parameters), torch.tensor([False])):
        backward(parameters, [True, True, False, True, True], 1)
    assert len(wire.first) == 2
    summing.flush()
    assert len(wire.first) == 5
    summing.finish()
    assert parameters[2].grad is None


def test_buckets_go_from_the_last_parameter_to_the_first_and_hold_one_type():
    parameters = [*model(0), nn.Parameter(torch.zeros(1, dtype=torch.float64))]
    packed = [bucket.parameters for bucket in pack(parameters, 4 * 9)]
    assert [len(group) for group in packed] == [1, 2, 2, 1]
    assert [p.numel() for group in packed for p in group] == [1, *reversed(SIZES)]
