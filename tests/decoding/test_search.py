"""Contract of every search: chunks, ragged and idle rows, padding, rows that can be taken and stacked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.decoding.base import stack, take
from samba_asr.decoding.greedy import Greedy
from samba_asr.decoding.ngram import NgramModel, _parse
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.decoding.words import WordGuide
from tests.decoding.toys import ARPA, CHARS
from tests.support.search import frames, offline

WORDS = WordGuide(CHARS, NgramModel(*_parse(iter(ARPA.splitlines()), None)), weight=0.8, bonus=0.7)
SEARCHES = {
    "greedy": Greedy(),
    "beam": PrefixBeam(beam=4, candidates=3, blank_skip=0.7),
    "beam-all": PrefixBeam(6, None, 1),
    "words": PrefixBeam(beam=4, candidates=3, blank_skip=0.7, guide=WORDS),
    "recombined": PrefixBeam(beam=4, candidates=3, blank_skip=0.7, guide=WORDS, recombine=1),
}


COMPILED = {
    "compiled": {"beam": 4, "candidates": 3, "blank_skip": 0.7},
    "compiled-all": {"beam": 6, "candidates": None, "blank_skip": 1},
    "compiled-words": {"beam": 4, "candidates": 3, "blank_skip": 0.7, "recombine": 1},
}


@pytest.fixture(scope="module", params=[*SEARCHES, *COMPILED])
def search(request):
    if request.param in SEARCHES:
        return SEARCHES[request.param]
    pytest.importorskip("numba")
    from samba_asr.decoding.compiled.search import CompiledBeam
    from samba_asr.decoding.compiled.tables import of_guide

    tables = of_guide(WORDS) if "words" in request.param else None
    return CompiledBeam(tables, **COMPILED[request.param])


@given(seed=st.integers(0, 10**6), data=st.data())
@settings(max_examples=25, deadline=None)
def test_chunks_of_any_length_give_what_the_whole_gives(search, seed, data):
    x = frames(seed)
    lengths = data.draw(st.lists(st.integers(0, 9), min_size=3, max_size=3))
    state, seen = search.init_state(3), [0, 0, 0]
    while seen != lengths:  # each row moves on by its own number of frames, perhaps none
        n = [data.draw(st.integers(0, end - at)) for at, end in zip(seen, lengths, strict=True)]
        chunk = torch.full((3, max(n) + 1, 5), torch.nan, dtype=torch.float64)
        for row in range(3):
            chunk[row, : n[row]] = x[row, seen[row] : seen[row] + n[row]]
        state = search.step(chunk, torch.tensor(n), state)
        seen = [at + more for at, more in zip(seen, n, strict=True)]
    assert search.hypotheses(search.finish(state), nbest=4) == offline(search, x, lengths)


def test_rows_do_not_know_each_other(search):
    x, lengths = frames(1), [9, 4, 7]
    alone = [offline(search, x[row : row + 1], lengths[row : row + 1])[0] for row in range(3)]
    assert offline(search, x, lengths) == alone


def test_an_idle_row_keeps_its_state_bit_for_bit(search):
    x = frames(2)
    before = search.step(x, torch.tensor([9, 5, 0]), search.init_state(3))
    after = search.step(x, torch.tensor([0, 9, 0]), before)
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old[[0, 2]], new[[0, 2]])


@pytest.mark.parametrize("seed", range(5))
def test_a_step_leaves_the_old_state_as_it_was(search, seed):
    x, lengths = frames(seed, b=16), torch.full((16,), 9)
    before = search.step(x, lengths, search.init_state(16))
    seen = [field.copy() for field in before]
    search.step(frames(seed + 100, b=16), lengths, before)
    for old, field in zip(seen, before, strict=True):
        assert np.array_equal(old, field)


def test_rows_can_be_taken_and_stacked(search):
    x, y, lengths = frames(4), frames(5), torch.tensor([9, 5, 3])
    state = search.step(x, lengths, search.init_state(3))
    mixed = stack([take(state, [2, 0]), search.init_state(1)])
    mixed = search.step(y, torch.tensor([6, 6, 6]), mixed)
    assert search.hypotheses(search.finish(mixed), 4) == [
        offline(search, torch.cat([x[2:, :3], y[:1, :6]], dim=1), [9])[0],
        offline(search, torch.cat([x[:1], y[1:2, :6]], dim=1), [15])[0],
        offline(search, y[2:], [6])[0],
    ]


def test_no_frames_is_the_empty_hypothesis(search):
    (score,) = {h.score for row in search.hypotheses(search.finish(search.init_state(3))) for h in row}
    assert score == 0.0 or getattr(
        search, "guide", getattr(search, "tables", None)
    )  # what a language model makes of no words
    for x, lengths in ((frames(6), [0, 0, 0]), (frames(6, t=0), [0, 0, 0])):
        found = [[(h.tokens, h.score, h.times) for h in row] for row in offline(search, x, lengths)]
        assert found == [[((), score, ())]] * 3
    assert offline(search, frames(6)[:0], torch.zeros(0)) == []


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_every_token_has_its_time_and_the_hypotheses_are_ranked(search, seed):
    for row in offline(search, frames(seed), [9, 9, 9]):
        assert [h.score for h in row] == sorted((h.score for h in row), reverse=True)
        assert len({h.tokens for h in row}) == len(row)
        for h in row:
            assert len(h.tokens) == len(h.times)
            assert list(h.times) == sorted(set(h.times))
            assert set(h.times) <= set(range(9))
            assert 0 not in h.tokens


@pytest.mark.parametrize(
    ("b", "lengths", "message"),
    [(2, [9, 9], "state of 3 rows"), (3, [9, 9], "state of 3 rows"), (3, [9, 10, 0], "lengths must be 0 .. t=9")],
)
def test_rows_that_do_not_fit_are_an_error(search, b, lengths, message):
    with pytest.raises(ValueError, match=message):
        search.step(frames(0, b=b), torch.tensor(lengths), search.init_state(3))


def test_half_precision_and_gradients_are_accepted(search):
    x = frames(7).to(torch.bfloat16).requires_grad_()
    assert len(offline(search, x, [9, 9, 9])) == 3
