"""The engine: whoever shares its steps, a session's text is that of the recogniser alone."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from samba_asr import steps
from samba_asr.config import load
from samba_asr.engine import (
    HEAD_START,
    Done,
    Engine,
    EngineCounts,
    Failed,
    Final,
    Flushed,
    Full,
    Idle,
    Lag,
    Over,
    Partial,
)
from samba_asr.errors import UserError
from samba_asr.models.folder import LoadedModel
from samba_asr.recognizer import Recognizer
from tests.support.sessions import WAIT, Ear
from tests.support.sound import noise


@pytest.fixture
def engine(recognizer):
    torch.set_num_threads(1)
    engine = Engine(recognizer, max_sessions=8)
    yield engine
    engine.close(grace=0)


def alone(recognizer, samples, rate=16000, latency_ms=None):
    stream = recognizer.stream(rate, latency_ms=latency_ms)
    stream.accept(samples)
    return stream.finish()


def changed(recognizer, **decode) -> Recognizer:
    """The same model with other search settings."""
    settings = [f"decode.{key.replace('__', '.')}={value}" for key, value in decode.items()]
    return Recognizer(LoadedModel(recognizer.model, recognizer.tokenizer, recognizer.config), load([], settings).decode)


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_steps_together_read_what_each_reads_alone(engine, overlap, monkeypatch):
    monkeypatch.setattr(engine, "recognizer", changed(engine.recognizer, runtime__overlap=overlap))
    rng = np.random.default_rng(0)
    clients = [
        (rate, ms, noise(2.0 + n / 3, rate, n))
        for n, (rate, ms) in enumerate(
            [(16000, 320), (8000, 640), (44100, 320), (16000, None), (48000, 40), (16000, 320)]
        )
    ]
    ears = [Ear() for _ in clients]

    def speak(ear, rate, ms, samples):
        session, at = engine.open(ear, rate, latency_ms=ms), 0
        while at < len(samples):
            n = int(rng.integers(1, rate))
            session.accept(samples[at : at + n])
            at += n
        session.finish()

    threads = [threading.Thread(target=speak, args=(ear, *client)) for ear, client in zip(ears, clients, strict=True)]
    for thread in threads:
        thread.start()
    for thread, ear, (rate, ms, samples) in zip(threads, ears, clients, strict=True):
        thread.join()
        done = ear.until(Done)
        expected = alone(engine.recognizer, samples, rate, ms)
        assert ear.text == expected.text != ""
        assert [(w.text, w.start, w.end) for e in ear.events if isinstance(e, Final) for w in e.segment.words] == [
            (w.text, w.start, w.end) for w in expected.words
        ]
        assert done.seconds == pytest.approx(expected.duration)
    assert engine.sessions == []
    assert engine.counts.rows > engine.counts.ticks  # they did share steps


def test_partials_come_while_audio_does(engine):
    ear = Ear()
    session = engine.open(ear, 16000, latency_ms=320)
    session.accept(noise(1.0))
    partial = ear.until(Partial)
    assert partial.text.startswith(partial.stable)
    session.finish()
    ear.until(Done)
    assert ear.text.startswith(partial.stable)


def test_a_flush_makes_final_what_was_heard_and_time_goes_on(engine):
    ear, samples = Ear(), noise(3.0)
    session = engine.open(ear, 16000, latency_ms=640)
    session.accept(samples[:16100])
    session.flush("here")
    assert ear.until(Flushed).name == "here"
    first = alone(engine.recognizer, samples[:16100], latency_ms=640)
    assert ear.text == first.text
    ear.events.clear()
    session.accept(samples[16100:])
    session.finish()
    assert ear.until(Done).seconds == pytest.approx(3.0)
    second = alone(engine.recognizer, samples[16100:], latency_ms=640)
    assert ear.text == second.text
    word = next(e for e in ear.events if isinstance(e, Final)).segment.words[0]
    assert word.start == pytest.approx(second.words[0].start + 16100 / 16000, abs=0.002)


def test_a_session_without_audio_ends(engine):
    ear = Ear()
    engine.open(ear, 16000).finish()
    assert ear.until(Done).seconds == 0
    assert ear.text == ""


def test_no_room(engine):
    sessions = [engine.open(Ear(), 16000) for _ in range(8)]
    with pytest.raises(Full, match="all 8 sessions are taken"):
        engine.open(Ear(), 16000)
    sessions[3].cancel()
    engine.open(Ear(), 16000)
    assert engine.counts.refused == 1


def test_bad_audio_is_refused_and_the_session_lives_on(engine):
    ear = Ear()
    session = engine.open(ear, 16000)
    with pytest.raises(UserError, match="sample 3 "):
        session.accept(np.array([0, 0, 0, np.nan], np.float32))
    session.accept(noise(1.0))
    session.finish()
    assert ear.until(Done).seconds == pytest.approx(1.0)
    with pytest.raises(RuntimeError, match="is over"):
        session.accept(noise(1.0))


@pytest.mark.parametrize("part", ["step", "drain", "conclude"])
def test_a_session_that_fails_takes_no_other_with_it(engine, monkeypatch, part):
    ears = [Ear(), Ear()]
    sessions = [engine.open(ear, 16000, latency_ms=320) for ear in ears]
    act = getattr(steps, part)

    def fail(parts, work):
        act(parts, work)
        if sessions[0].session in [one.session for one in (work if isinstance(work, list) else [work])]:
            raise ValueError("planted")

    monkeypatch.setattr(steps, part, fail)
    samples = noise(2.0)
    for live in sessions:
        live.accept(samples)
        live.finish()
    ears[1].until(Done)
    monkeypatch.undo()
    assert ears[1].text == alone(engine.recognizer, samples, latency_ms=320).text
    assert ears[0].next() == Failed("internal error")
    assert engine.counts.failed == 1


def test_a_listener_that_fails_is_forgotten(engine):
    def broken(event):
        raise ValueError("planted")

    session = engine.open(broken, 16000)
    session.finish()
    ear = Ear()
    engine.open(ear, 16000).finish()
    ear.until(Done)
    assert engine.sessions == []


def test_going_down_tells_what_was_said(recognizer):
    engine, ears, samples = Engine(recognizer), [Ear(), Ear()], noise(1.0)
    open_, ended = (engine.open(ear, 16000) for ear in ears)
    for session in (open_, ended):
        session.accept(samples)
    ended.finish()
    engine.close(grace=WAIT)
    for ear in ears:
        ear.until(Done)
        assert ear.text == alone(recognizer, samples).text
    with pytest.raises(Full, match="going down"):
        engine.open(Ear(), 16000)
    with pytest.raises(RuntimeError, match="is over"):
        open_.accept(samples)


def test_going_down_at_once_says_so(recognizer, monkeypatch):
    engine, ear = Engine(recognizer), Ear()
    monkeypatch.setattr(engine, "_tick", lambda work: None)  # it never gets done
    engine.open(ear, 16000)
    engine.close(grace=0.1)
    assert isinstance(ear.next(), Failed)


def test_a_long_file_does_not_keep_a_live_session_waiting(engine):
    long, live = Ear(), Ear()
    file = engine.open(long, 16000, latency_ms=320)
    file.accept(noise(60.0))
    file.finish()
    session = engine.open(live, 16000, latency_ms=320)
    session.accept(noise(1.0))
    session.finish()
    live.until(Done)
    assert not file.over
    long.until(Done)


def test_a_tick_takes_few_steps_and_all_get_their_turn(engine, monkeypatch):
    sizes, step = [], steps.step

    def counted(recognizer, work):
        sizes.append(len(work))
        return step(recognizer, work)

    monkeypatch.setattr(steps, "step", counted)
    monkeypatch.setattr("samba_asr.engine.ROWS", 2)
    samples = noise(2.0)
    ears = [Ear() for _ in range(5)]
    with engine.lock:  # so that all are due at once
        for ear in ears:
            session = engine.open(ear, 16000, latency_ms=640)
            session.accept(samples)
            session.finish()
    for ear in ears:
        ear.until(Done)
        assert ear.text == alone(engine.recognizer, samples, latency_ms=640).text
    assert max(sizes) <= 2


def test_who_stops_has_a_head_start_before_those_who_speak(engine):
    with engine.lock:
        live = [engine.open(Ear(), 16000, latency_ms=640) for _ in range(3)]
        for session in live:
            session.accept(noise(1.0))
        live[2].finish()
        now = time.monotonic()
        for session in live:
            session.served = now
        assert engine._next()[0] is live[2]
        live[1].served = now - 2 * HEAD_START  # waited longer than that
        assert engine._next() == [live[1], live[2], live[0]]
        for session in live:
            session.cancel()


def test_what_an_engine_cannot_be(recognizer):
    with pytest.raises(UserError, match="give 1 or more"):
        Engine(recognizer, max_sessions=0)


def test_behind_a_gate_a_session_reads_what_a_stream_reads(engine, monkeypatch):
    gated = changed(engine.recognizer, vad="energy")
    monkeypatch.setattr(engine, "recognizer", gated)
    silence, ear = np.zeros(48000, np.float32), Ear()
    samples = np.concatenate([silence, noise(1.5), silence, noise(1.0, seed=1), silence])
    live = engine.open(ear, 16000, latency_ms=320)
    for piece in np.array_split(samples, 17):
        live.accept(piece)
    live.finish()
    assert ear.until(Done).seconds == pytest.approx(11.5)
    assert [e.segment for e in ear.events if isinstance(e, Final)] == list(
        alone(gated, samples, latency_ms=320).segments
    )


def test_a_session_that_waits_is_told_so(engine):
    ear = Ear()
    session = engine.open(ear, 16000, latency_ms=320)
    session.accept(noise(9.0))
    session.finish()
    ear.until(Done)
    lags = [event.seconds for event in ear.events if isinstance(event, Lag)]
    assert lags == sorted(lags, reverse=True)
    assert lags[0] > 6
    assert all(lag > 2 for lag in lags)


def test_an_engine_that_retires_ends_with_its_last_session(engine):
    ear = Ear()
    session = engine.open(ear, 16000, latency_ms=320)
    engine.retire()
    with pytest.raises(Full):
        engine.open(Ear(), 16000)
    session.accept(noise(1.0))
    session.finish()
    ear.until(Done)
    assert ear.text == alone(engine.recognizer, noise(1.0), latency_ms=320).text
    engine._thread.join(timeout=WAIT)
    assert not engine._thread.is_alive()


def test_a_session_that_nobody_feeds_is_finished(recognizer):
    engine, ears, samples = Engine(recognizer, max_sessions=2, idle_seconds=1.0), [Ear(), Ear()], noise(1.0)
    try:
        kept, left = (engine.open(ear, 16000, latency_ms=320) for ear in ears)
        for session in (kept, left):
            session.accept(samples)
        deadline = time.monotonic() + WAIT
        while left in engine.sessions:
            assert time.monotonic() < deadline
            kept.accept(samples[:3200])  # audio keeps a session alive
            time.sleep(0.1)
        assert kept in engine.sessions
        ears[1].until(Done)
        assert [e.seconds for e in ears[1].events if isinstance(e, Idle)] == [1.0]
        assert ears[1].text == alone(recognizer, samples, latency_ms=320).text  # what it brought is not lost
        with pytest.raises(Over):
            left.accept(samples)
    finally:
        engine.close(grace=0)


def test_a_session_whose_audio_waits_is_not_idle(recognizer, monkeypatch):
    engine, ear = Engine(recognizer, idle_seconds=0.2), Ear()
    step = steps.step
    monkeypatch.setattr(steps, "step", lambda *args: (time.sleep(0.3), step(*args)))  # slower than the bound
    try:
        session = engine.open(ear, 16000, latency_ms=320)
        session.accept(noise(7.0))
        while session.session.due(2.0) or not ear.until(Partial).until > 6:
            time.sleep(0.01)
        assert not any(isinstance(event, Idle) for event in ear.events)
    finally:
        engine.close(grace=0)


def test_counts_are_told_of_every_step(recognizer):
    class Told(EngineCounts):
        def __init__(self):
            super().__init__()
            self.steps = []

        def stepped(self, seconds, rows):
            super().stepped(seconds, rows)
            self.steps.append((seconds, rows))

    engine, ear = Engine(recognizer, counts=Told()), Ear()
    try:
        session = engine.open(ear, 16000)
        session.accept(noise(1.0))
        session.finish()
        ear.until(Done)
    finally:
        engine.close(grace=0)
    seconds, rows = zip(*engine.counts.steps, strict=True)
    assert (len(rows), sum(rows)) == (engine.counts.ticks, engine.counts.rows)
    assert sum(seconds) == pytest.approx(engine.counts.busy)
