"""Forced alignment: the best of all alignments that read the text, by brute force; its errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.decoding import align as aligning
from samba_asr.decoding.align import align
from samba_asr.errors import UserError


def noise(t, v, seed=0):
    x = np.random.default_rng(seed).normal(size=(t, v)) * 2
    return x - np.logaddexp.reduce(x, axis=1, keepdims=True)


def read(path):
    return [token for token, _ in itertools.groupby(path) if token != 0]


def spans_of(path):
    found, at = [], 0
    for token, group in itertools.groupby(path):
        n = len(list(group))
        found += [(at, at + n)] * (token != 0)
        at += n
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.lists(st.integers(1, 2), max_size=4), st.integers(0, 1000))
def test_it_is_the_best_of_all_alignments(t, tokens, seed):
    x = noise(t, 3, seed)
    paths = [p for p in itertools.product(range(3), repeat=t) if read(p) == tokens]
    if not paths:
        with pytest.raises(UserError, match=f"takes at least .* frames, the audio has {t}"):
            align(x, tokens)
        return
    best = max(paths, key=lambda p: sum(x[i, v] for i, v in enumerate(p)))
    spans = align(x, tokens)
    assert [(s.first, s.end) for s in spans] == spans_of(best)
    for span, token in zip(spans, tokens, strict=True):
        assert span.log_prob == pytest.approx(x[span.first : span.end, token].mean())


def test_a_text_that_is_spoken_lies_where_it_is():
    ids = [0, 0, 3, 3, 0, 3, 0, 1, 2, 2]
    x = np.full((len(ids), 4), -10.0)
    x[np.arange(len(ids)), ids] = -0.1
    spans = align(x.astype(np.float32), [3, 3, 1, 2])
    assert [(s.first, s.end) for s in spans] == [(2, 4), (5, 6), (7, 8), (8, 10)]
    assert all(s.log_prob == pytest.approx(-0.1) for s in spans)


def test_no_text_has_no_spans():
    assert align(noise(3, 4), []) == []
    assert align(noise(0, 4), []) == []


def test_a_table_too_large_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(aligning, "MOST", 100)
    with pytest.raises(UserError, match="50 frames and 3 units are too many to align at once: cut the audio"):
        align(noise(50, 4), [1, 2, 3])


def test_a_text_of_more_states_than_a_byte_counts():
    tokens = [1 + n % 3 for n in range(400)]
    x = np.full((400, 4), -9.0)
    x[range(400), tokens] = 0.0
    assert [span.first for span in align(x, tokens)] == list(range(400))
