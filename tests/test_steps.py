"""Pipeline of a file: the events of one step after another, whatever the audio, and nothing is left running."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.session import Done
from samba_asr.steps import advanced, pipelined
from tests.support.sessions import PARTS, fed, finals
from tests.support.sound import noise


@settings(max_examples=12, deadline=None)
@given(parts=PARTS, latency_ms=st.sampled_from([160, 320, None]))
def test_its_events_are_those_of_one_step_after_another(recognizer, parts, latency_ms):
    expected = list(advanced(recognizer, fed(recognizer, parts, latency_ms)))
    assert list(pipelined(recognizer, fed(recognizer, parts, latency_ms))) == expected
    assert isinstance(expected[-1], Done)


def test_the_model_runs_while_earlier_frames_are_searched(recognizer, monkeypatch):
    threads, twice, meanwhile = set(), threading.Event(), []
    encode, search = recognizer.runtime.step, recognizer.segmenter.step
    steps = []

    def encodes(*args):
        threads.add(threading.current_thread())
        steps.append(1)
        if len(steps) == 2:
            twice.set()
        return encode(*args)

    def searches(*args):
        meanwhile.append(twice.wait(timeout=60))
        return search(*args)

    monkeypatch.setattr(recognizer.runtime, "step", encodes)
    monkeypatch.setattr(recognizer.segmenter, "step", searches)
    list(pipelined(recognizer, fed(recognizer, [("feed", 1.0)] * 6)))
    assert meanwhile[0]  # a second step began before the first search ended
    assert threading.current_thread() not in threads


@pytest.mark.parametrize("part", ["runtime", "segmenter"])
def test_an_error_of_either_thread_is_raised_and_ends_both(recognizer, monkeypatch, part):
    def fails(*args):
        raise ValueError("no room")

    monkeypatch.setattr(getattr(recognizer, part), "step", fails)
    before = threading.active_count()
    with pytest.raises(ValueError, match="no room"):
        list(pipelined(recognizer, fed(recognizer, [("feed", 1.0)] * 3)))
    assert threading.active_count() == before


def test_a_caller_who_leaves_early_leaves_no_thread(recognizer):
    before = threading.active_count()
    events = pipelined(recognizer, fed(recognizer, [("feed", 1.0), ("flush", 0.0)] * 9))
    next(events)
    events.close()
    assert threading.active_count() == before


def test_no_more_than_some_steps_wait(recognizer, monkeypatch):
    """So memory does not grow with the file."""
    done, chunks = [], []
    search = recognizer.segmenter.step
    monkeypatch.setattr(recognizer.segmenter, "step", lambda *args: (done.append(len(chunks)), search(*args)))
    list(pipelined(recognizer, fed(recognizer, [("feed", 1.0)] * 12, on_chunk=lambda: chunks.append(1))))
    assert np.diff(done).max() <= 4
    assert done[0] <= 6


def test_transcribe_gives_what_listen_gives(recognizer, monkeypatch):
    samples = noise(9.0)
    expected = finals(recognizer.listen(samples))
    for count in (1, 2):
        monkeypatch.setattr("samba_asr.recognizer.threads", lambda count=count: count)
        assert list(recognizer.transcribe(samples).segments) == expected
