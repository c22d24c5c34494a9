"""Many items in threads: each done once, in order, the largest begun first, errors in their places."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.audio.source import Truncated
from samba_asr.errors import UserError
from samba_asr.many import attempt, in_threads, largest_first


@given(sizes=st.lists(st.integers(0, 5), max_size=12), jobs=st.integers(1, 4))
def test_results_come_in_the_order_of_the_items(sizes, jobs):
    items = list(enumerate(sizes))
    assert list(largest_first(lambda item: item, items, jobs, lambda item: item[1])) == items
    assert sorted(in_threads(lambda item: item, items, jobs)) == list(enumerate(items))


@pytest.mark.parametrize(("jobs", "first"), [(1, {1, 3}), (2, {3, 2})])
def test_the_largest_begin_first_where_several_run_at_a_time(jobs, first):
    begun = []
    list(largest_first(begun.append, [1, 3, 2], jobs, float))
    assert set(begun[:2]) == first


def test_jobs_run_at_the_same_time():
    together = threading.Barrier(3, timeout=10)
    assert len(list(in_threads(lambda item: together.wait(), range(3), 3))) == 3


def test_an_early_end_starts_no_others():
    begun = []
    for _ in in_threads(begun.append, range(100), 2):
        break
    assert len(begun) <= 4


@pytest.mark.parametrize("jobs", [0, -1])
def test_jobs_below_one_are_refused(jobs):
    with pytest.raises(UserError, match=f"jobs={jobs}"):
        list(in_threads(str, [1], jobs))


def test_errors_that_the_user_can_mend_are_text_and_bugs_are_not():
    def fail(error):
        raise error

    damaged = Truncated("a.wav", 1.0, "at 1.00 s")
    damaged.result = "the part before"
    assert attempt("a.wav", lambda: 3) == (3, "")
    assert attempt("a.wav", lambda: fail(UserError("a.wav: bad"))) == (None, "a.wav: bad")
    assert attempt("a.wav", lambda: fail(damaged)) == ("the part before", str(damaged))
    assert attempt("a.wav", lambda: fail(OSError(5, "Input/output error"))) == (None, "a.wav: Input/output error")
    assert attempt("a.wav", lambda: fail(MemoryError())) == (None, "a.wav: too large for the memory")
    with pytest.raises(ZeroDivisionError):
        attempt("a.wav", lambda: 1 / 0)
