"""Session and `advance`: many streams of audio in one step, each with its own latency and its own events."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.config import load
from samba_asr.errors import UserError
from samba_asr.models.folder import LoadedModel
from samba_asr.recognizer import Recognizer
from samba_asr.runtime.base import Latency, latency_of
from samba_asr.session import (
    Done,
    EagerEnd,
    Final,
    Flushed,
    Over,
    Partial,
    Quiet,
    SpeechStarted,
    TurnEnded,
    TurnResumed,
    TurnRules,
)
from samba_asr.steps import advance
from tests.support.sessions import alone, changed, finals
from tests.support.sound import noise

# --- latency belongs to a session


def test_a_second_recognizer_on_the_same_model_changes_nothing_for_the_first(recognizer):
    samples, before = noise(4.0), changed(recognizer, runtime__overlap=0.0)
    running = before.stream(latency_ms=640)
    running.accept(samples[:20000])
    want = alone(before, samples, latency_ms=640)
    other = changed(recognizer, runtime__overlap=0.75)
    assert alone(other, samples, latency_ms=640) != want  # it does matter
    assert alone(before, samples, latency_ms=640) == want
    running.accept(samples[20000:])
    assert list(running.finish().segments) == want


def test_sessions_of_one_step_may_have_any_latency(recognizer):
    samples, latencies = noise(3.0), [40, 320, None, 640, 320]
    sessions = [recognizer.session(latency_ms=ms) for ms in latencies]
    for session in sessions:
        session.feed(samples)
        session.end()
    while not all(session.over for session in sessions):
        advance(recognizer, sessions)
    for session, ms in zip(sessions, latencies, strict=True):
        assert finals(session.events()) == alone(recognizer, samples, latency_ms=ms)


@pytest.mark.parametrize(
    ("ms", "overlap", "want"),
    [
        (None, 0.0, Latency(50, 49)),
        (None, 0.5, Latency(50, 49)),  # the largest block has its own overlap
        (2000, 0.5, Latency(50, 49)),
        (640, 0.0, Latency(16, 16)),
        (640, 0.5, Latency(16, 8)),
        (40, 0.9, Latency(1, 1)),
    ],
)
def test_blocks_of_a_latency(ms, overlap, want):
    assert latency_of(ms, overlap, 0.04, 50) == want


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_an_overlap_is_a_share_of_a_block(recognizer, overlap):
    with pytest.raises(UserError, match=rf"overlap={overlap:g}: |overlap=nan: give a finite"):
        changed(recognizer, runtime__overlap=overlap)


@pytest.mark.parametrize("ms", [float("nan"), float("inf"), 0, 30, 2040])
def test_a_latency_that_no_block_has_is_refused(recognizer, ms):
    with pytest.raises(UserError, match="multiple of 40 ms"):
        recognizer.session(latency_ms=ms)


def test_with_blocks_that_overlap_there_is_news_with_every_hop(recognizer):
    session = changed(recognizer, runtime__overlap=0.75).session(
        latency_ms=640
    )  # 16 frames of 640 samples, then 4 at a time
    frame = np.zeros(640, np.float32)
    due = []
    for _ in range(28):
        session.feed(frame)
        due.append(session.due())
        if due[-1]:
            advance(recognizer, [session])
    assert [i for i, now in enumerate(due, 1) if now] == [16, 20, 24, 28]


# --- events


@settings(max_examples=10, deadline=None)
@given(rates=st.lists(st.sampled_from([8000, 16000, 44100]), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_sessions_that_share_steps_read_what_each_reads_alone(recognizer, rates, seed):
    rng = np.random.default_rng(seed)
    audio = [noise(1.0 + n / 2, rate, n) for n, rate in enumerate(rates)]
    sessions = [recognizer.session(rate, latency_ms=320) for rate in rates]
    events: list[list] = [[] for _ in sessions]
    at = [0] * len(sessions)
    while not all(session.over for session in sessions):
        for i, session in enumerate(sessions):
            n = int(rng.integers(0, rates[i]))
            session.feed(audio[i][at[i] : at[i] + n]) if at[i] < len(audio[i]) else session.end()
            at[i] += n
        advance(recognizer, sessions)
        for some, session in zip(events, sessions, strict=True):
            some += session.events()
            assert session.events() == []  # each once
    for some, samples, rate in zip(events, audio, rates, strict=True):
        assert finals(some) == alone(recognizer, samples, rate, 320)
        assert [event for event in some if isinstance(event, Done)] == [some[-1]]
        assert some[-1].seconds == pytest.approx(len(samples) / rate)


def test_partials_only_where_they_are_wanted(recognizer):
    for wanted in (True, False):
        session = recognizer.session(latency_ms=320, partials=wanted)
        session.feed(noise(2.0))
        advance(recognizer, [session])
        assert any(isinstance(event, Partial) for event in session.events()) == wanted


def test_silence_is_reported_as_quiet_in_order(recognizer):
    gated = changed(recognizer, vad="energy")
    silence = np.zeros(3 * 16000, np.float32)
    events = list(gated.listen(np.concatenate([silence, noise(1.5), silence]), latency_ms=320))
    assert len(finals(events)) == 1
    quiet = list(recognizer.listen(np.zeros(16000 * 6, np.float32), latency_ms=320, partials=False))
    times = [event.until for event in quiet if isinstance(event, Quiet)]
    assert times == sorted(times)


@pytest.mark.parametrize("end", ["flush", "end"])
def test_what_is_withheld_is_reported_as_quiet_also_at_a_flush_and_at_the_end(recognizer, end):
    loaded = LoadedModel(recognizer.model, recognizer.tokenizer, recognizer.config)
    strict = Recognizer(loaded, load([], ["decode.endpoint.confidence=1"]).decode, lambda evidence: 0.1)
    session, samples = strict.session(latency_ms=320, partials=False), noise(1.5)
    session.feed(samples)
    session.flush() if end == "flush" else session.end()
    while session.due() and not session.over:
        advance(strict, [session])
    words = [word for segment in alone(recognizer, samples, latency_ms=320) for word in segment.words]
    *before, quiet, _ = session.events()
    assert quiet == Quiet(pytest.approx(1.5, abs=0.05), len(words) - sum(e.withheld for e in before))
    assert strict.recognize(samples, latency_ms=320).withheld == len(words) > 0
    assert strict.transcribe(samples, latency_ms=320).withheld == len(words)


def test_without_a_calibration_there_is_no_bound_on_the_confidence(recognizer, caplog):
    samples = noise(1.5)
    with caplog.at_level("WARNING"):
        bound = changed(recognizer, endpoint__confidence=1.0)
    assert alone(bound, samples) == alone(recognizer, samples) != []
    (line,) = caplog.messages
    assert "decode.endpoint.confidence=1 is ignored: samba-asr calibrate --model" in line


def test_a_flush_ends_a_stretch_and_the_times_go_on(recognizer):
    samples, session = noise(3.0), recognizer.session(latency_ms=640, partials=False)
    session.feed(samples[:16100])
    session.flush("here")
    session.feed(samples[16100:])
    session.end()
    while session.due() and not session.over:
        advance(recognizer, [session])
    events = session.events()
    cut = events.index(Flushed("here"))
    assert finals(events[:cut]) == alone(recognizer, samples[:16100], latency_ms=640)
    second = alone(recognizer, samples[16100:], latency_ms=640)
    assert [s.text for s in finals(events[cut:])] == [s.text for s in second]
    assert finals(events[cut:])[0].start == pytest.approx(second[0].start + 16100 / 16000, abs=0.002)
    assert events[-1] == Done(pytest.approx(3.0))
    with pytest.raises(Over):
        session.feed(samples)


def test_listen_takes_arrays_blocks_and_files_alike(recognizer, tmp_path):
    import soundfile

    samples = noise(2.0, 8000)
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")

    class Blocks:
        rate = 8000

        def __iter__(self):
            return iter(np.array_split(samples, 7))

    want = alone(recognizer, samples, 8000, 320)
    for source, rate in ((tmp_path / "a.wav", None), (Blocks(), None), (samples, 8000), (list(Blocks()), 8000)):
        assert finals(recognizer.listen(source, rate=rate, latency_ms=320)) == want


# --- turns

TURNS = TurnRules(eager=0.08, end=0.2)


def turns_of(recognizer, samples, sizes, **more) -> list:
    """Events of a session but for partials and quiet notices, which depend on the chunks."""
    session, at, found = recognizer.session(latency_ms=320, turns=TURNS, **more), 0, []
    for size in [*sizes, len(samples)]:
        session.feed(samples[at : at + size])
        at += size
        advance(recognizer, [session])
    session.end()
    found = list(recognizer.events(session))
    return [event for event in found if not isinstance(event, Partial | Quiet)]


@pytest.mark.parametrize("text", ["spoken", "written"])
def test_turns_do_not_depend_on_chunks(pausing, text):
    samples = noise(3.0)
    whole = turns_of(pausing, samples, [], text=text)
    assert {type(event) for event in whole} == {SpeechStarted, EagerEnd, TurnResumed, Final, TurnEnded, Done}
    assert turns_of(pausing, samples, [1, 12000, 700, 20000], text=text) == whole
    assert all(
        (event.segment.written is not None) == (text == "written") for event in whole if isinstance(event, EagerEnd)
    )


def test_an_eager_end_is_written_as_the_final_that_ends_there(pausing):
    samples, checked = noise(3.0), 0
    whole = turns_of(pausing, samples, [], text="written")
    for before, event in itertools.pairwise(whole):
        if isinstance(before, EagerEnd) and isinstance(event, Final) and event.segment.words == before.segment.words:
            assert [w.spoken for w in before.segment.written.words] == [w.spoken for w in event.segment.written.words]
            checked += 1
    assert checked


def test_partials_of_a_session_with_turns_have_the_probability_of_its_end(pausing):
    for turns in (TURNS, None):
        session, found = pausing.session(latency_ms=320, turns=turns), []
        for at in range(0, 48000, 5120):
            session.feed(noise(3.0)[at : at + 5120])
            advance(pausing, [session])
            found += [event for event in session.events() if isinstance(event, Partial)]
        assert found
        assert all((event.turn_end is None) == (turns is None) for event in found)
        assert turns is None or {0.0} < {event.turn_end for event in found}


def test_a_session_with_turns_waits_for_no_words(pausing):
    with pytest.raises(UserError, match="ahead=4: a session with turns"):
        pausing.session(turns=TURNS, text="written", ahead=4)
