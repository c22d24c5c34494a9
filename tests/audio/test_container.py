"""Containers: sound at its time stamps, whatever the header says."""

from __future__ import annotations

import numpy as np
import pytest

from samba_asr.audio import container
from samba_asr.audio.read import info, read, stream
from tests.audio.sounds import begins, encode_av, tone
from tests.shared import needs_shared, shared

WRAPPINGS = [
    ("matroska", "libopus", 48000),
    ("matroska", "flac", 16000),
    ("webm", "libopus", 48000),
    ("mp4", "aac", 16000),
    ("mov", "alac", 16000),
]
VIDEOS = [("matroska", "aac", 48000), ("mp4", "aac", 16000), ("mpegts", "aac", 48000), ("asf", "mp2", 48000)]


def silences(samples: np.ndarray, rate: int) -> list[tuple[float, float]]:
    """(from, to) of silences of 0.3 s and more between sounds."""
    loud = np.flatnonzero(np.abs(samples) > 0.1) / rate
    return [(loud[k], loud[k + 1]) for k in np.flatnonzero(np.diff(loud) > 0.3)]


@pytest.mark.parametrize(("format", "codec", "rate"), WRAPPINGS)
def test_a_late_beginning_keeps_its_place(format, codec, rate):
    data = encode_av(tone(2.0, rate), format, codec, rate, at=3.0)
    audio = read(data)
    assert begins(audio.samples, rate) == pytest.approx(3.0, abs=0.03)
    assert audio.duration == pytest.approx(5.0, abs=0.1)
    assert info(data).duration == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize(("format", "codec", "rate"), [*WRAPPINGS, *VIDEOS, ("ogg", "libopus", 48000)])
def test_a_hole_is_silence(format, codec, rate):
    data = encode_av(tone(4.0, rate), format, codec, rate, hole=(2.0, 3.0))
    audio = read(data)
    ((begin, end),) = silences(audio.samples, rate)
    assert begin == pytest.approx(2.0, abs=0.1)
    assert end == pytest.approx(5.0, abs=0.1)
    assert audio.duration == pytest.approx(7.0, abs=0.1)
    assert info(data).duration == pytest.approx(7.0, abs=0.1)


@pytest.mark.parametrize(("format", "codec", "rate"), VIDEOS)
def test_a_video_whose_sound_begins_late_has_it_where_the_picture_is(format, codec, rate):
    audio = read(encode_av(tone(2.0, rate), format, codec, rate, at=3.0, picture=6.0))
    assert begins(audio.samples, rate) == pytest.approx(3.0, abs=0.05)


def test_parts_and_pieces_count_the_silence():
    data = encode_av(tone(4.0, 48000), "matroska", "libopus", 48000, at=1.0, hole=(2.0, 3.0))
    whole = read(data).samples
    np.testing.assert_array_equal(read(data, start=0.5, duration=4.0).samples, whole[24000:216000])
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in stream(data, 0.3)]), whole)


def test_silence_is_bounded_and_a_recorders_clock_is_no_hole(caplog):
    data = encode_av(tone(2.0, 48000), "matroska", "libopus", 48000, at=20_000.0)
    audio = read(data)
    assert audio.duration == pytest.approx(2.0, abs=0.1)
    assert "time stamps jump by" in caplog.text


def test_holes_together_are_bounded(monkeypatch):
    monkeypatch.setattr(container, "_SILENCE_SECONDS", 1.0)
    data = encode_av(tone(2.0, 16000), "matroska", "flac", 16000, at=0.9, hole=(1.0, 30.0))
    assert read(data).duration == pytest.approx(2.9, abs=0.1)


def test_time_stamps_that_go_back_lose_no_sound():
    data = encode_av(tone(1.0, 48000), "mpegts", "aac", 48000, at=5.0) + encode_av(
        tone(1.0, 48000), "mpegts", "aac", 48000
    )
    assert read(data).duration == pytest.approx(2.0, abs=0.15)


@needs_shared("cases")
@pytest.mark.parametrize("name", ["ao_late.mka", "ao_late.webm"])
def test_the_cases_that_were_refused_are_read(name):
    audio = read(shared("cases") / name)
    assert audio.duration == pytest.approx(7.865, abs=0.02)
    spoken = read(shared("cases/base.wav"))
    assert begins(audio.samples, audio.rate) == pytest.approx(3.0 + begins(spoken.samples, spoken.rate), abs=0.05)
