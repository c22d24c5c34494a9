"""The sum over all alignments of a text, by torch and by numpy, against the sum over all paths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.decoding import text_sums
from samba_asr.decoding.text_sums import by_numpy, by_torch, text_log_probs
from tests.support.search import brute_force, frames

WAYS = [by_numpy, by_torch]


@pytest.mark.parametrize("way", WAYS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_it_is_the_sum_over_all_paths(way, seed):
    x = frames(seed, 1, 5, 4)[0].numpy()
    totals = brute_force(x)
    texts = [*totals, (1, 1, 1, 1)]  # five frames do not hold the last
    np.testing.assert_allclose(way(x, texts), [*(totals[text][0] for text in totals), -math.inf])


@given(seed=st.integers(0, 10**6), t=st.integers(1, 30), lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_both_ways_agree(seed, t, lengths):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(t, 4)) * 3).log_softmax(-1).numpy()
    texts = [tuple(rng.integers(1, 4, n).tolist()) for n in lengths]
    np.testing.assert_allclose(by_numpy(x, texts), by_torch(x, texts), rtol=1e-9)


def test_of_no_frames_only_the_empty_text_comes():
    assert by_numpy(np.zeros((0, 4)), [(), (1,)]) == [0.0, -math.inf]


@pytest.mark.parametrize("way", WAYS)
def test_it_is_taken_in_parts_that_fit_into_memory(monkeypatch, way):
    monkeypatch.setattr(text_sums, way.__name__, lambda x, texts: (counts.append(len(texts)), way(x, texts))[1])
    monkeypatch.setattr(text_sums.importlib.util, "find_spec", lambda name: way is by_torch or None)
    counts: list[int] = []
    x, texts = frames(1, 1, 5, 4)[0].numpy(), [(1,), (2,), (1, 2), (), (3,)]
    whole = text_log_probs(x, texts)
    monkeypatch.setattr(text_sums, "MOST", 2 * 5 * 5)
    assert text_log_probs(x, texts) == pytest.approx(whole)
    assert counts == [5, 2, 2, 1]
    assert text_log_probs(x, []) == []
    monkeypatch.setattr(text_sums, "MOST", 5)
    assert text_log_probs(x, [(1, 2)]) is None
