"""Larger blocks: final texts of a live session are those that its audio has in blocks of decode.runtime.final_ms."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.decoding.larger_blocks import split
from samba_asr.decoding.segment_state import Heard
from samba_asr.decoding.turns import TurnRules
from samba_asr.engine import Done, Engine, Failed
from samba_asr.errors import UserError
from samba_asr.runtime.latency import OVERLAP
from samba_asr.session import EagerEnd, Final, Partial
from samba_asr.steps import advance, advanced, conclude, drain, pipelined, step
from tests.support.sessions import PARTS, WAIT, Ear, alone, changed, fed, finals
from tests.support.sound import noise

NEVER = {"endpoint__silence": 100, "endpoint__pause": 100, "endpoint__longest": 120}  # segments end where audio does


def again(recognizer, final_ms=640, **decode):
    return changed(recognizer, runtime__final_ms=final_ms, **decode)


def assert_same(found, expected):
    """Equal texts and times, and confidences but for rounding: steps of other sizes add in another order."""
    plain = [[[(word.text, word.start, word.end) for word in one.words] for one in some] for some in (found, expected)]
    assert plain[0] == plain[1]
    for one, other in zip(found, expected, strict=True):
        assert [word.confidence for word in one.words] == pytest.approx(
            [word.confidence for word in other.words], abs=1e-3
        )


@settings(max_examples=20, deadline=None)
@given(
    parts=PARTS,
    latency_ms=st.sampled_from([40, 160, 320]),
    final_ms=st.sampled_from([400, 640, None]),
    overlap=st.sampled_from([0.0, 0.5]),
)
def test_the_finals_are_those_of_the_larger_blocks(recognizer, parts, latency_ms, final_ms, overlap):
    one = changed(recognizer, **NEVER, runtime__overlap=OVERLAP)
    largest = recognizer.runtime.max_block * recognizer.frame * 1000
    live = again(recognizer, final_ms or largest, **NEVER, runtime__overlap=overlap)
    expected = finals(advanced(one, fed(one, parts, final_ms)))
    assert_same(finals(advanced(live, fed(live, parts, latency_ms))), expected)


def test_many_short_gaps_are_a_pause(recognizer):
    """Each is shorter than a pause, and together they last until the encoder starts again: the segment ends before."""
    parts = [("feed", 4.0), *[("gap", 0.9)] * 12, ("feed", 1.0)]
    one, live = changed(recognizer, **NEVER, runtime__overlap=OVERLAP), again(recognizer, **NEVER)
    found = finals(advanced(live, fed(live, parts, 160)))
    assert_same(found, finals(advanced(one, fed(one, parts, 640))))
    assert [round(segment.until, 1) for segment in found] == [4.0, 15.8]
    assert found[1].start >= 14.8


def test_a_pipeline_gives_them_too(recognizer):
    live = again(recognizer, endpoint__longest=2.0)
    parts = [("feed", 2.5), ("gap", 0.6), ("feed", 3.0), ("flush", 0.0), ("feed", 1.0)]
    expected = list(advanced(live, fed(live, parts, 160, partials=False)))
    assert list(pipelined(live, fed(live, parts, 160, partials=False))) == expected
    assert len(finals(expected)) > 3


def test_partials_come_from_the_small_blocks(recognizer):
    live, plain = again(recognizer, **NEVER), changed(recognizer, **NEVER)
    parts = [("feed", 1.0)] * 3
    partials = [
        [event for event in advanced(one, fed(one, parts, 160, partials=True)) if isinstance(event, Partial)]
        for one in (live, plain)
    ]
    assert partials[0] == partials[1] != []
    assert alone(plain, noise(3.0), latency_ms=160) != alone(live, noise(3.0), latency_ms=160)  # it does matter


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 60000), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_each_sample_is_read_once_wherever_segments_end(pausing, sizes, seed):
    """However the audio was cut into chunks: segments that end by a pause, by silence, or because they are too long."""
    recognizer = again(pausing, 400, endpoint__longest=3.0, endpoint__pause=0.4)
    larger, read = recognizer.segmenter.larger, []

    def reading(closed, plain=larger.read):
        read.append(np.concatenate([samples for _, samples in closed.audio]))
        return plain(closed)

    larger.read = reading
    samples = noise(sum(sizes) / 16000, seed=seed)[: sum(sizes)]
    session, at = recognizer.session(latency_ms=160, partials=False), 0
    for size in sizes:
        session.feed(samples[at : at + size])
        at += size
        while session.due():
            advance(recognizer, [session])
    assert sum(len(samples) for _, samples in session.search.audio) <= 6 * 16000  # memory is bounded
    session.end()
    advance(recognizer, [session])
    joined = np.concatenate(read)
    assert np.array_equal(joined[: len(samples)], samples)
    assert not joined[len(samples) :].any()  # the last frame is filled with zeros
    assert_same(finals(session.events()), alone(recognizer, samples, latency_ms=160))


def test_it_reads_ahead_so_that_little_is_left_at_the_end(pausing):
    recognizer = again(pausing, 400, endpoint__pause=1.2)
    steps = []

    def counted(audio, states, gaps=None, plain=recognizer.runtime.step):
        if states[0].encoder.size[0] == 10:
            steps.append(len(audio[0]) / 16000)
        return plain(audio, states, gaps)

    recognizer.segmenter.larger.runtime = Proxy(recognizer.runtime, counted)
    session = recognizer.session(latency_ms=160, partials=False)
    for n in range(30):
        session.feed(noise(0.16, seed=n))
        advance(recognizer, [session])
    session.end()
    advance(recognizer, [session])
    assert max(steps) <= 0.4 + 0.16
    assert len(steps) >= 8


class Proxy:
    """A runtime with another `step`."""

    def __init__(self, runtime, step):
        self._runtime, self.step = runtime, step

    def __getattr__(self, name):
        return getattr(self._runtime, name)


def test_a_segment_that_is_too_long_is_read_on_from_before_its_cut(pausing):
    """The readings beyond the cut are dropped, and the text is that of what was read up to it."""
    rules = {"endpoint__longest": 4.0, "endpoint__pause": 0.8}
    recognizer, plain = again(pausing, 200, **rules), again(pausing, 200, **rules)
    plain.segmenter.larger.job = lambda s: None  # it reads nothing ahead
    dropped = []

    def reading(closed, plain=recognizer.segmenter.larger.read):
        before = len(closed.readings)
        found = plain(closed)
        dropped.append(before + 1 - len(closed.readings))
        return found

    recognizer.segmenter.larger.read = reading
    found = [list(advanced(one, fed(one, [("feed", 0.16)] * 150, 160, partials=False))) for one in (recognizer, plain)]
    assert_same(*map(finals, found))
    assert sum(dropped) > 0


def test_audio_is_divided_between_its_frames():
    audio = [Heard(1.5, np.arange(4)), Heard(0.0, np.arange(4, 6)), Heard(2.0, np.arange(6, 9))]
    for n in range(10):
        first, rest = split(audio, n)
        assert np.concatenate([np.zeros(0), *(samples for _, samples in [*first, *rest])]).tolist() == list(range(9))
        assert sum(len(samples) for _, samples in first) == n
        assert sum(gap for gap, _ in [*first, *rest]) == 3.5
        assert all(len(samples) for _, samples in [*first, *rest])


def test_a_job_that_fails_or_comes_late_changes_nothing(pausing):
    """The rest of the segment is read when it ends."""
    rules = {"endpoint__longest": 4.0, "endpoint__pause": 0.8}  # so that some are cut before the end of a job
    recognizer, parts = again(pausing, 200, **rules), [("feed", 0.16)] * 120
    expected = finals(advanced(recognizer, fed(recognizer, parts, 160)))
    late: list = []

    def fails():
        raise ValueError("planted")

    for spoil in (lambda job: fails, lambda job: late.append(job)):
        other = again(pausing, 200, **rules)
        other.segmenter.larger.job = lambda s, job=other.segmenter.larger.job, spoil=spoil: (
            (made := job(s)) and spoil(made)
        )
        with Engine(other) as engine:
            ear = Ear()
            session = engine.open(ear, 16000, latency_ms=160)
            for n in range(len(parts)):
                session.accept(noise(0.16, seed=n))
            session.finish()
            ear.until(Done)
            assert_same(finals(ear.events), expected)
    assert late
    other.segmenter.larger._read = lambda *args, **options: pytest.fail("the segment was read already")
    for job in late:
        job()


def test_an_eager_end_does_not_wait_for_it(pausing):
    live = again(pausing)
    samples = np.concatenate([noise(2.0), np.zeros(32000, np.float32)])
    rules = TurnRules(eager=0.2)
    told = [list(one.listen(samples, latency_ms=160, turns=rules)) for one in (live, changed(pausing))]
    eager = [[event for event in some if isinstance(event, EagerEnd)] for some in told]
    assert eager[0] == eager[1] != []
    assert [type(event) for event in told[0] if not isinstance(event, Final)] == [
        type(event) for event in told[1] if not isinstance(event, Final)
    ]


def test_warming_runs_a_larger_block(recognizer):
    live, steps = again(recognizer, 640), []
    step = live.runtime.step
    live.runtime = Proxy(live.runtime, lambda audio, states: steps.append(len(audio[0])) or step(audio, states))
    live.warm()
    assert steps == [16 * live.runtime.stride]


def test_a_session_that_is_dropped_stays_so(recognizer):
    session = recognizer.session(latency_ms=160)
    session.feed(noise(1.0))
    session.flush()
    work = session.take()
    step(recognizer, [work])
    drain(recognizer, [work])
    session.drop()
    conclude(recognizer, work)
    assert session.over


def test_large_blocks_are_not_read_twice(recognizer):
    live = again(recognizer, 640)
    assert live.session(latency_ms=160).search.audio == []
    for ms in (None, 640, 1280):
        assert live.session(latency_ms=ms).search.audio is None
    assert changed(recognizer).session(latency_ms=160).search.audio is None


@pytest.mark.parametrize(("ms", "message"), [(0, "final_ms=0: give milliseconds above 0"), (50, "multiple of 40 ms")])
def test_blocks_that_do_not_fit(recognizer, ms, message):
    with pytest.raises(UserError, match=message):
        again(recognizer, ms)


class TestEngine:
    """The engine reads segments that have ended in a thread of their own."""

    @pytest.fixture
    def held(self, recognizer, monkeypatch):
        """An engine whose finals wait until the second value, an event, is set; the third is set when one waits."""
        live = again(recognizer)
        engine, free, waiting = Engine(live), threading.Event(), threading.Event()
        collect = live.segmenter.collect

        def slow(state):
            if threading.current_thread().name.startswith("samba_asr-finals"):
                waiting.set()
                assert free.wait(WAIT)
            return collect(state)

        monkeypatch.setattr(live.segmenter, "collect", slow)
        yield engine, free, waiting
        free.set()
        engine.close(grace=10)

    def test_others_do_not_wait_for_a_final_and_its_own_session_does(self, held):
        engine, free, waiting = held
        ear, other = Ear(), Ear()
        first = engine.open(ear, 16000, latency_ms=160)
        first.accept(noise(2.0))
        first.flush("a")
        first.accept(noise(1.0, seed=1))
        first.finish()
        assert waiting.wait(WAIT)
        second = engine.open(other, 16000, latency_ms=160)
        second.accept(noise(2.0))
        other.until(Partial)
        assert engine.responsive < engine.counts.last  # a final waits since then
        free.set()
        ear.until(Done)
        expected = list(advanced(engine.recognizer, fed(engine.recognizer, [("feed", 2.0), ("flush", 0)], 160)))
        assert_same(finals(ear.events)[:1], finals(expected)[:1])
        assert [type(event).__name__ for event in ear.events if not isinstance(event, Partial)] == [
            "Final",
            "Flushed",
            "Final",
            "Done",
        ]
        second.cancel()

    def test_a_final_that_fails_ends_its_session_alone(self, held, monkeypatch):
        engine, free, _ = held
        free.set()

        def fails(state):
            raise ValueError("planted")

        monkeypatch.setattr(engine.recognizer.segmenter, "collect", fails)
        ear = Ear()
        engine.open(ear, 16000, latency_ms=160).finish()
        assert ear.next() == Failed("internal error")
        assert engine.sessions == []

    def test_nothing_follows_a_cancellation(self, held):
        engine, free, waiting = held
        told = []
        session = engine.open(told.append, 16000, latency_ms=160)
        session.accept(noise(1.0))
        session.finish()
        assert waiting.wait(WAIT)
        session.cancel()
        before = list(told)
        free.set()
        engine.close(grace=10)
        engine._finals.close(timeout=60)
        assert told == before
