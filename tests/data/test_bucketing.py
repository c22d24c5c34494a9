from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.data.bucketing import bucket_batches, choose_speed, derive_seed, sorted_batches

durations = st.lists(st.floats(0.1, 40.0), min_size=1, max_size=60)
shapes = st.fixed_dictionaries(
    {"batch_seconds": st.floats(1.0, 200.0), "buckets": st.integers(1, 20), "seed": st.integers(0, 2**62)}
)


@given(durations, shapes, st.integers(1, 4))
def test_an_epoch_has_every_utterance_once_in_bounded_batches_equal_per_rank(seconds, shape, ranks):
    batches = bucket_batches(seconds, **shape, ranks=ranks)
    assert len(batches) % ranks == 0
    seen = sorted(i for batch in batches for i in batch)
    if len(seconds) >= len(batches):  # there was enough to cut in two
        assert seen == list(range(len(seconds)))
    assert set(seen) == set(range(len(seconds)))
    for batch in batches:
        padded = max(seconds[i] for i in batch) * len(batch)
        assert padded <= shape["batch_seconds"] or len(batch) == 1


@given(durations, shapes)
def test_one_rank_sees_nothing_twice(seconds, shape):
    batches = bucket_batches(seconds, **shape)
    assert sorted(i for batch in batches for i in batch) == list(range(len(seconds)))


@given(durations, shapes, st.integers(1, 4))
def test_the_same_seed_gives_the_same_epoch(seconds, shape, ranks):
    assert bucket_batches(seconds, **shape, ranks=ranks) == bucket_batches(seconds, **shape, ranks=ranks)


def test_another_seed_gives_another_epoch():
    seconds = np.linspace(1, 10, 100)
    a, b = (bucket_batches(seconds, batch_seconds=30, buckets=4, seed=seed) for seed in (1, 2))
    assert a != b
    assert {frozenset(x) for x in a} != {frozenset(x) for x in b}


def test_buckets_keep_padding_small():
    seconds = np.random.default_rng(0).uniform(1, 20, 2000)
    batches = bucket_batches(seconds, batch_seconds=120, buckets=12, seed=1)
    padded = sum(max(seconds[i] for i in batch) * len(batch) for batch in batches)
    assert seconds.sum() / padded > 0.9
    full = sum(max(seconds[i] for i in batch) * len(batch) > 90 for batch in batches)
    assert full > 0.95 * len(batches)


def test_fewer_utterances_than_ranks_come_twice():
    assert sorted(bucket_batches([1.0], batch_seconds=10, buckets=3, seed=1, ranks=3)) == [[0], [0], [0]]


def test_no_utterances_make_no_batches():
    assert bucket_batches([], batch_seconds=10, buckets=3, seed=1, ranks=2) == []
    assert sorted_batches([], batch_seconds=10) == []


@given(durations, st.floats(1.0, 200.0))
def test_evaluation_goes_from_long_to_short(seconds, batch_seconds):
    batches = sorted_batches(seconds, batch_seconds=batch_seconds)
    order = [seconds[i] for batch in batches for i in batch]
    assert order == sorted(seconds, reverse=True)
    for batch in batches:
        assert seconds[batch[0]] * len(batch) <= batch_seconds or len(batch) == 1


def test_seeds_are_the_same_everywhere():
    assert derive_seed("batch", 1, 2) == 3440442887260496954
    assert derive_seed("a", "b") != derive_seed("ab")
    assert 0 <= derive_seed() < 2**63


def test_speeds_are_drawn_evenly_and_anew_each_epoch():
    drawn = [choose_speed((0.9, 1.0, 1.1), seed=1, epoch=e, utterance=f"u{i}") for e in (1, 2) for i in range(300)]
    assert all(150 < drawn.count(speed) < 250 for speed in (0.9, 1.0, 1.1))
    assert drawn[:300] != drawn[300:]
    assert choose_speed((1.0,), seed=1, epoch=1, utterance="u") == pytest.approx(1.0)
