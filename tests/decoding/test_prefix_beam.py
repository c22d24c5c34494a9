"""Prefix beam search against the sum over every alignment."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from samba_asr.decoding.base import Hypothesis
from samba_asr.decoding.greedy import Greedy
from samba_asr.decoding.prefix_beam import PrefixBeam, stable_prefix
from samba_asr.errors import UserError
from tests.support.search import brute_force, frames, offline


@given(seed=st.integers(0, 10**6), shape=st.sampled_from([(1, 4), (4, 3), (5, 3), (6, 2), (4, 4)]), cut=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_wide_beam_finds_every_sequence_with_its_whole_probability_and_best_times(seed, shape, cut):
    x = frames(seed, 1, *shape)
    if cut:
        x[:, :, 1][x[:, :, 1] < -2] = -torch.inf  # impossible tokens
        x[:, shape[0] // 2, 0] = -torch.inf  # and a frame that cannot be blank
    expected = {k: e for k, e in brute_force(x[0].numpy()).items() if e[0] > -np.inf}
    assume(expected)
    found = PrefixBeam(beam=len(expected) + 200, candidates=None, prune=None, blank_skip=1.0)
    row = found.hypotheses(found.step(x, torch.tensor(shape[:1]), found.init_state(1)), nbest=10**6)[0]
    assert {h.tokens for h in row} == set(expected)
    for h in row:
        assert h.score == pytest.approx(expected[h.tokens][0])
        assert h.times == expected[h.tokens][2]


def test_the_best_text_need_not_be_the_best_path():
    x = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]]).log()  # blank blank 0.36, but "1" has 0.24 + 0.24 + 0.16
    assert offline(Greedy(), x, [2])[0][0].tokens == ()
    assert offline(PrefixBeam(), x, [2])[0][0].tokens == (1,)
    assert offline(PrefixBeam(), x, [2])[0][0].score == pytest.approx(np.log(0.64))


@given(seed=st.integers(0, 10**6), beam=st.integers(1, 6), candidates=st.sampled_from([1, 2, None]))
@settings(max_examples=40, deadline=None)
def test_pruned_scores_are_lower_bounds(seed, beam, candidates):
    x = frames(seed, b=1, t=5, v=3)
    expected = brute_force(x[0].numpy())
    for h in offline(PrefixBeam(beam, candidates, blank_skip=0.9), x, [5])[0]:
        assert h.score <= expected[h.tokens][0] + 1e-9


@given(path=st.lists(st.integers(0, 3), min_size=1, max_size=30), seed=st.integers(0, 10**6), beam=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_where_every_frame_is_sure_it_is_the_best_path(path, seed, beam):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(len(path), 4, generator=generator)
    x[range(len(path)), path] = 0
    x = 0.1 * x / x.sum(-1, keepdim=True)
    x[range(len(path)), path] = 0.9
    x = x.log()[None]
    assert (
        offline(PrefixBeam(beam, None, 1.0), x, [len(path)])[0][0].tokens
        == offline(Greedy(), x, [len(path)])[0][0].tokens
    )


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_what_all_beams_share_never_changes(seed):
    search = PrefixBeam(beam=3, candidates=3)
    x = frames(seed, b=1, t=40, sharpness=4.0)
    state, stable = search.init_state(1), ()
    for t in range(40):
        state = search.step(x[:, t : t + 1], torch.tensor([1]), state)
        beams = search.hypotheses(state, nbest=3)[0]
        now = stable_prefix(beams)
        assert now[: len(stable)] == stable
        assert all(h.tokens[: len(stable)] == stable for h in beams)
        stable = now


def test_what_is_beyond_doubt_becomes_stable_while_the_end_is_open():
    search = PrefixBeam(beam=8, candidates=None)
    x = torch.full((1, 8, 4), -20.0)
    x[0, range(6), [0, 2, 0, 3, 3, 0]] = 0.0  # frames 0-5 are sure
    x[0, 6:] = 0.0  # anything may follow
    beams = search.hypotheses(search.step(x.log_softmax(-1), torch.tensor([8]), search.init_state(1)), nbest=8)[0]
    assert len(beams) == 8
    assert stable_prefix(beams) == (2, 3)


def test_stable_prefix():
    def beams(*tokens):
        return [Hypothesis(t) for t in tokens]

    assert stable_prefix([]) == ()
    assert stable_prefix(beams((1, 2, 3))) == (1, 2, 3)
    assert stable_prefix(beams((1, 2, 3), (1, 2), (1, 2, 4))) == (1, 2)
    assert stable_prefix(beams((1,), ())) == ()


def test_blank_skip_hardly_moves_the_score():
    x = frames(3, b=2, t=30)
    x[:, ::2, 1:] -= 6  # every other frame is nearly sure to be blank
    x = x.log_softmax(-1)
    exact = offline(PrefixBeam(8, None, 1.0), x, [30, 20])
    skipped = offline(PrefixBeam(8, None, 0.99), x, [30, 20])
    for a, b in zip(exact, skipped, strict=True):
        assert a[0].tokens == b[0].tokens
        assert a[0].score == pytest.approx(b[0].score, abs=0.3)


def test_one_id_beside_the_blank_is_enough():
    assert offline(PrefixBeam(4, 10), frames(0, b=1, v=2), [9])[0]


@pytest.mark.parametrize(
    "options",
    [{"beam": 0}, {"candidates": 0}, {"blank_skip": 0.0}, {"blank_skip": 1.5}, {"prune": 0.0}, {"recombine": 0}],
)
def test_bad_options_are_named(options):
    with pytest.raises(UserError, match="beam >= 1"):
        PrefixBeam(**options)
