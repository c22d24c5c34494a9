"""Scores of marks and cases."""

from __future__ import annotations

import pytest

from samba_asr.metrics.punctuation import MarkCounts, add, interval


def counts():
    return MarkCounts.of([0, 1, 2, 0, 1], [0, 1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0], classes=4)


def test_precision_recall_and_f1_by_hand():
    some = counts()
    assert (some.precision(1), some.recall(1), some.f1(1)) == (0.5, 0.5, 0.5)
    assert (some.precision(2), some.recall(2), some.f1(2)) == (0.0, 0.0, 0.0)
    assert some.f1(3) == 0.0
    assert some.case_accuracy == 0.75


def test_counts_add_up():
    both = add([counts(), counts()])
    assert both.f1(1) == 0.5
    assert both.cases == 8
    assert list(both.wanted) == [4, 4, 2, 0]


def test_the_interval_of_equal_texts_is_a_point():
    assert interval([counts()] * 5, lambda c: c.f1(1), draws=20) == pytest.approx((0.5, 0.5))


def test_the_interval_holds_the_value():
    good = MarkCounts.of([1], [1], [0], [0], classes=2)
    bad = MarkCounts.of([1], [0], [0], [1], classes=2)
    low, high = interval([good, bad] * 10, lambda c: c.case_accuracy)
    assert low < 0.5 < high
