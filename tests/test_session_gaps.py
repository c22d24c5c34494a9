"""Missing audio in sessions: lost packets and pauses; nothing is computed for them, times go on, and the encoder remembers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.engine import Engine
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from samba_asr.session import FORGET, PACKET, PAUSE, Done, Final
from samba_asr.steps import advance
from tests.support.sessions import alone, changed, finals
from tests.support.sound import noise

RATE = 16000


def events_of(recognizer: Recognizer, parts, rate=RATE, latency_ms=320, cut=None) -> list:
    """Return the events of a session that receives arrays, and numbers: seconds of missing audio."""
    session = recognizer.session(rate, latency_ms=latency_ms, partials=False)
    found = []
    for part in parts:
        if isinstance(part, float):
            session.gap(part)
        else:
            for piece in np.array_split(part, cut or 1):
                session.feed(piece)
                found += recognizer.events(session)
    session.end()
    return found + list(recognizer.events(session))


def words(events) -> list:
    return [word for segment in finals(events) for word in segment.words]


@pytest.fixture
def computed(recognizer, monkeypatch) -> list[tuple[int, list[float] | None]]:
    """Record samples and gaps of every step of the runtime."""
    seen, step = [], recognizer.runtime.step

    def recorded(audio, states, gaps=None):
        seen.append((sum(map(len, audio)), gaps))
        return step(audio, states, gaps)

    monkeypatch.setattr(recognizer.runtime, "step", recorded)
    return seen


# --- what a gap is


def test_audio_after_a_gap_has_its_place_in_time(recognizer):
    first, second = noise(1.5), noise(1.5, seed=1)
    for missing in (0.5, 0.9, 3.0):
        events = events_of(recognizer, [first, missing, second])
        assert words(events)[0].start < 1.0
        assert 2.5 + missing < words(events)[-1].end <= 3.04 + missing
        assert events[-1] == Done(pytest.approx(3.0 + missing))
        assert finals(events)[-1].until == pytest.approx(3.0 + missing, abs=0.05)


def test_a_long_gap_ends_a_segment_and_a_short_one_does_not(recognizer):
    first, second = noise(1.5), noise(1.5, seed=1)
    short, long = (finals(events_of(recognizer, [first, gap, second])) for gap in (PAUSE - 0.1, PAUSE))
    assert len(short) == 1
    assert [segment.until for segment in long] == pytest.approx([1.5, 4.0], abs=0.05)


def test_nothing_is_computed_for_what_is_missing(recognizer, computed):
    events_of(recognizer, [noise(1.0), 0.5, noise(1.0), 5.0, noise(1.0)])
    assert sum(samples for samples, _ in computed) == pytest.approx(3.0 * RATE, abs=3 * 640)
    gaps = [gap for _, gaps in computed if gaps for gap in gaps if gap]
    assert gaps == pytest.approx([0.5 / 0.04, 5.0 / 0.04], abs=1)


def test_a_lost_packet_is_hidden_from_the_model(recognizer):
    """Equal to the model on features that are 0, their mean, where samples are missing."""
    first, second, lost = noise(1.5), noise(1.5, seed=1), 3200 + 100  # samples, no multiple of a feature's
    acoustic, ctc = recognizer.model.acoustic, recognizer.model.ctc
    samples = torch.from_numpy(np.concatenate([first, np.zeros(lost, np.float32), second]))[None, :, None]
    samples = torch.nn.functional.pad(samples, (0, 0, 0, -samples.shape[1] % 640))
    with torch.inference_mode():
        features, n = acoustic.features(samples, torch.tensor([samples.shape[1]]))
        at = torch.arange(features.shape[1]) * 160
        hidden = (at + 160 > len(first)) & (at < len(first) + lost)
        frames, n = acoustic.encoder(*acoustic.subsampling(features.masked_fill(hidden[None, :, None], 0), n), 8)
        want = ctc(frames, n)[0].argmax(-1)

        session, seen = recognizer.session(latency_ms=320, partials=False), []
        for part in (first[:7000], first[7000:], lost / RATE, second):
            session.gap(part) if isinstance(part, float) else session.feed(part)
        session.end()
        work = session.take()
        assert np.isnan(work.samples).sum() == lost
        state = recognizer.runtime.start(recognizer.latency(320))
        for piece in np.split(work.samples, [640 * 5, 640 * 39, 640 * 41]):
            found, (state,) = recognizer.runtime.step([piece], [state])
            seen.append(found.log_probs[0, : found.lengths[0]].argmax(-1))
        found = recognizer.runtime.finish([state])
        seen.append(found.log_probs[0, : found.lengths[0]].argmax(-1))
    assert np.array_equal(np.concatenate(seen), want[0].numpy())
    assert lost / RATE < PACKET


def test_a_gap_of_nothing_changes_nothing(recognizer):
    samples = noise(2.0)
    assert events_of(recognizer, [samples, 0.0]) == events_of(recognizer, [samples])


def test_after_a_gap_the_encoder_goes_on_where_it_was(recognizer):
    """Equal to the runtime's own steps, pause and gap; and not equal to a new session."""
    first, second = noise(1.6), noise(1.6, seed=1)
    runtime, latency = recognizer.runtime, recognizer.latency(320)
    _, states = runtime.step([first], [runtime.start(latency)])
    _, states = runtime.pause(states)
    seen, states = runtime.step([second], states, [100.0])
    last = runtime.finish(states)
    want = np.concatenate([seen.log_probs[0, : seen.lengths[0]], last.log_probs[0, : last.lengths[0]]])

    found, step, finish = [], runtime.step, runtime.finish
    keep = lambda frames: found.append(frames.log_probs[0, : frames.lengths[0]])  # noqa: E731
    session = recognizer.session(latency_ms=320)
    session.feed(first)
    session.gap(4.0)
    list(recognizer.events(session))
    session.feed(second)
    session.end()
    runtime.step = lambda *a: (keep((made := step(*a))[0]), made)[1]
    runtime.finish = lambda *a: (keep(made := finish(*a)), made)[1]
    try:
        list(recognizer.events(session))
    finally:
        runtime.step, runtime.finish = step, finish
    torch.testing.assert_close(np.concatenate(found), want)
    assert (
        finals(events_of(recognizer, [first, 4.0, second]))[-1].text
        != alone(recognizer, second, latency_ms=320)[-1].text
    )


def test_after_a_very_long_gap_the_encoder_starts_again(recognizer):
    first, second = noise(1.6), noise(1.6, seed=1)
    events = events_of(recognizer, [first, FORGET + 1.0, second])
    fresh = alone(recognizer, second, latency_ms=320)
    assert finals(events)[-1].text == fresh[-1].text
    assert finals(events)[-1].start == pytest.approx(fresh[-1].start + 1.6 + FORGET + 1, abs=0.002)


# --- whatever the chunks and the neighbors


@settings(max_examples=10, deadline=None)
@given(
    gaps=st.lists(st.sampled_from([0.1, 0.25, 0.6, 1.5, 4.0]), min_size=1, max_size=3),
    cut=st.integers(1, 5),
    rate=st.sampled_from([16000, 8000, 44100]),
)
def test_chunks_do_not_matter(recognizer, gaps, cut, rate):
    parts: list = [noise(0.7, rate)]
    for n, gap in enumerate(gaps):
        parts += [gap, noise(0.5 + 0.3 * n, rate, seed=n + 1)]
    whole = events_of(recognizer, parts, rate)
    assert finals(events_of(recognizer, parts, rate, cut=cut)) == finals(whole)
    seconds = sum(part if isinstance(part, float) else len(part) / rate for part in parts)
    assert whole[-1] == Done(pytest.approx(seconds))


def test_sessions_with_and_without_gaps_share_steps(recognizer):
    given = [[noise(1.0), 0.5, noise(1.2, seed=1)], [noise(2.2, seed=2)], [noise(0.5, seed=3), 2.0, noise(1.0, seed=4)]]
    sessions = [recognizer.session(latency_ms=320, partials=False) for _ in given]
    for session, parts in zip(sessions, given, strict=True):
        for part in parts:
            session.gap(part) if isinstance(part, float) else session.feed(part)
        session.end()
    while not all(session.over for session in sessions):
        advance(recognizer, sessions)
    for session, parts in zip(sessions, given, strict=True):
        assert finals(session.events()) == finals(events_of(recognizer, parts))


def test_a_flush_after_a_gap_starts_the_encoder_again(recognizer):
    session, second = recognizer.session(latency_ms=320, partials=False), noise(1.6, seed=1)
    session.feed(noise(1.0))
    session.gap(3.0)
    session.flush()
    session.feed(second)
    session.end()
    found = finals(recognizer.events(session))
    assert found[-1].text == alone(recognizer, second, latency_ms=320)[-1].text
    assert found[-1].until == pytest.approx(5.6, abs=0.05)


# --- pauses at the gate


def test_behind_a_gate_the_encoder_goes_on_after_a_pause(recognizer, computed):
    gated, silence = changed(recognizer, vad="energy"), np.zeros(4 * RATE, np.float32)
    step = recognizer.runtime.step
    gated.runtime.step = step  # of the same model
    session = gated.session(latency_ms=320)
    states = []
    for piece in (silence, noise(1.5), silence, noise(1.0, seed=1), silence):
        session.feed(piece)
        list(gated.events(session))
        states.append(session.state)
    assert states[0] is None
    assert None not in states[1:]
    spoken = 1.5 + 1.0 + 2 * (0.4 + 1.6)
    assert sum(samples for samples, _ in computed) == pytest.approx(spoken * RATE, abs=3 * 640)
    gaps = [gap * 0.04 for _, gaps in computed if gaps for gap in gaps if gap]
    assert gaps == pytest.approx([4 - 0.4 - 1.6], abs=0.1)


def test_behind_a_gate_lost_packets_count_as_no_speech(recognizer):
    gated = changed(recognizer, vad="energy")
    parts = [np.zeros(RATE, np.float32), noise(1.5), 0.5, noise(1.0, seed=1), 5.0, noise(1.0, seed=2)]
    found = finals(events_of(gated, parts))
    assert [round(segment.until) for segment in found] == [4, 10]
    for segment, (begin, end) in zip(found, [(0.6, 4.0), (9.0, 10.0)], strict=True):
        assert begin <= segment.start < segment.end <= end + 0.05


def test_a_gap_while_the_gate_is_shut_only_moves_the_time(recognizer):
    gated = changed(recognizer, vad="energy")
    (found,) = finals(events_of(gated, [np.zeros(RATE, np.float32), 20.0, np.zeros(RATE, np.float32), noise(1.5)]))
    assert 21.5 < found.start < found.end < 23.6


# --- a runtime that knows no gaps


def test_without_elapsed_time_a_runtime_hears_silence_or_starts_again(recognizer, monkeypatch):
    first, second = noise(1.5), noise(1.5, seed=1)
    monkeypatch.setattr(type(recognizer.runtime), "takes_gaps", False)
    monkeypatch.setattr(type(recognizer.runtime), "pause", None)
    silent = np.concatenate([first, np.zeros(RATE // 2, np.float32), second])
    assert finals(events_of(recognizer, [first, 0.5, second])) == alone(recognizer, silent, latency_ms=320)
    found = finals(events_of(recognizer, [first, 3.0, second]))
    assert [s.text for s in found] == [alone(recognizer, v, latency_ms=320)[-1].text for v in (first, second)]
    assert found[-1].until == pytest.approx(6.0, abs=0.05)


# --- bad input


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), float("inf"), 3600.5])
def test_a_gap_that_cannot_be_is_refused_and_nothing_is_lost(recognizer, seconds):
    session, samples = recognizer.session(latency_ms=320, partials=False), noise(1.5)
    session.feed(samples)
    with pytest.raises(UserError, match=r"a gap of .* s: it must be from 0 to 3600 s"):
        session.gap(seconds)
    session.end()
    assert finals(recognizer.events(session)) == alone(recognizer, samples, latency_ms=320)


def test_streams_and_engines_take_gaps_too(recognizer):
    parts = [noise(1.0), 0.5, noise(1.0, seed=1), 2.0, noise(1.0, seed=2)]
    want = finals(events_of(recognizer, parts))
    stream, heard = recognizer.stream(latency_ms=320), []
    engine = Engine(recognizer)
    live = engine.open(heard.append, RATE, latency_ms=320)
    for part in parts:
        for sink, take in ((stream, stream.accept), (live, live.accept)):
            sink.gap(part) if isinstance(part, float) else take(part)
    live.finish()
    assert list(stream.finish().segments) == want
    assert stream.seconds == pytest.approx(5.5)
    with pytest.raises(RuntimeError, match="gap after finish"):
        stream.gap(1.0)
    engine.close()
    assert [event.segment for event in heard if isinstance(event, Final)] == want
