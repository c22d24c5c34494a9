"""Best path."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from samba_asr.decoding.base import Hypothesis
from samba_asr.decoding.greedy import Greedy
from tests.support.search import frames, offline


def one_hot(ids: list[int], v: int = 4, p: float = 0.7) -> torch.Tensor:
    x = torch.full((1, len(ids), v), (1 - p) / (v - 1))
    x[0, range(len(ids)), ids] = p
    return x.log()


@pytest.mark.parametrize(
    ("ids", "tokens", "times"),
    [
        ([0, 0], (), ()),
        ([1, 1, 1], (1,), (0,)),
        ([0, 1, 1, 0, 1, 2, 2, 0], (1, 1, 2), (1, 4, 5)),
        ([3, 2, 3], (3, 2, 3), (0, 1, 2)),
    ],
)
def test_repeats_merge_blanks_drop_and_times_are_first_frames(ids, tokens, times):
    (hypothesis,) = offline(Greedy(), one_hot(ids), [len(ids)])[0]
    assert hypothesis == Hypothesis(tokens, pytest.approx(len(ids) * math.log(0.7)), times)


def test_a_token_held_over_a_chunk_border_is_one_token():
    search, x = Greedy(), one_hot([0, 1, 1, 2])
    state = search.init_state(1)
    for t in range(4):
        state = search.step(x[:, t : t + 1], torch.tensor([1]), state)
    assert search.hypotheses(state)[0][0].tokens == (1, 2)
    assert search.hypotheses(state)[0][0].times == (1, 3)


def test_it_is_the_best_of_all_alignments():
    x = frames(0, b=1, t=5, v=3)
    best = max(
        itertools.product(range(3), repeat=5), key=lambda path: sum(x[0, t, i].item() for t, i in enumerate(path))
    )
    collapsed = tuple(i for i, before in zip(best, (0, *best), strict=False) if i not in (0, before))
    (hypothesis,) = offline(Greedy(), x, [5])[0]
    assert hypothesis.tokens == collapsed
    assert hypothesis.score == pytest.approx(sum(x[0, t, i].item() for t, i in enumerate(best)))
