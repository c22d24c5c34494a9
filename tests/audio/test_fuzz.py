"""Damaged headers of every container: samples, or one line of AudioError, in bounded time and memory."""

from __future__ import annotations

import functools
import resource
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samba_asr.audio.read import AudioError, info, stream
from tests.audio.sounds import encode, encode_av, tone

MOST_SECONDS = 120.0  # of audio that is looked at: a header may rightly claim hours of silence
MOST_TIME = 10.0  # seconds for one file of 10 kB or so, on a slow machine
MOST_MEMORY = 512 << 10  # KiB that the process may grow by, all files together

FORMATS = {
    "wav": lambda: encode(tone(0.3)),
    "wav-float-stereo": lambda: encode(tone(0.3, channels=2), subtype="FLOAT"),
    "wav-adpcm": lambda: encode(tone(0.3), subtype="IMA_ADPCM"),
    "aiff": lambda: encode(tone(0.3), "AIFF"),
    "au": lambda: encode(tone(0.3), "AU"),
    "flac": lambda: encode(tone(0.3), "FLAC"),
    "mp3": lambda: encode(tone(0.3), "MP3"),
    "ogg-opus": lambda: encode(tone(0.3), "OGG", "OPUS"),
    "ogg-vorbis": lambda: encode(tone(0.3), "OGG", "VORBIS"),
    "mp4": lambda: encode_av(tone(0.3), "mp4", "aac", 16000),
    "m4a-alac": lambda: encode_av(tone(0.3), "mov", "alac", 16000),
    "matroska": lambda: encode_av(tone(0.3, 48000), "matroska", "libopus", 48000),
    "matroska-video": lambda: encode_av(tone(0.3), "matroska", "flac", 16000, picture=0.3),
    "webm": lambda: encode_av(tone(0.3, 48000), "webm", "libopus", 48000),
    "mpegts": lambda: encode_av(tone(0.3, 48000), "mpegts", "aac", 48000),
    "flv": lambda: encode_av(tone(0.3, 44100), "flv", "aac", 44100),
    "avi": lambda: encode_av(tone(0.3, 44100), "avi", "mp2", 44100),
    "caf": lambda: encode(tone(0.3), "CAF"),
}


@functools.cache
def whole(name: str) -> bytes:
    return FORMATS[name]()


@st.composite
def damaged(draw, name: str) -> bytes:
    """A file with bytes changed, mostly in its first kilobyte, and perhaps cut, doubled in a place, or begun late."""
    data = bytearray(whole(name))
    head = st.integers(0, min(len(data), 1024) - 1)
    place = st.one_of(head, head, st.integers(0, len(data) - 1))
    value = st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, 255))
    for _ in range(draw(st.integers(0, 8))):
        data[draw(place)] = draw(value)
    if draw(st.booleans()):
        at, width = draw(place), draw(st.sampled_from([2, 4, 8]))
        data[at : at + width] = draw(st.sampled_from([b"\xff", b"\x00", b"\x7f", b"\x80"])) * width
    change = draw(st.sampled_from(["", "", "cut", "double", "late"]))
    at = draw(place)
    if change == "cut":
        del data[at:]
    elif change == "double":
        data[at:at] = data[max(0, at - 64) : at]
    elif change == "late":
        del data[:at]
    return bytes(data)


def check(source: bytes) -> None:
    """Samples that are finite and in [-1, 1], or AudioErrors of one line."""
    began = time.process_time()
    seconds, problem = 0.0, ""
    try:
        for piece in stream(source, 1.0):
            assert np.isfinite(piece.samples).all()
            assert np.abs(piece.samples).max(initial=0) <= 1
            seconds += piece.duration
            if seconds > MOST_SECONDS:
                break
    except AudioError as error:
        problem = str(error)
    assert problem.isprintable()
    try:
        found = info(source)
        assert 0 <= found.duration < np.inf
        assert 1000 <= found.rate <= 768_000
        assert found.channels >= 1
    except AudioError as error:
        problem = str(error)
    assert problem.isprintable()
    assert time.process_time() - began < MOST_TIME


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_gives_samples_or_one_line_of_error(name, capfd):
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(damaged(name))
    def fuzz(source: bytes) -> None:
        check(source)

    whole(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fuzz()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY
    assert capfd.readouterr().err == ""


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([whole(name)[:n] for name in FORMATS for n in (4, 12, 64)]), st.binary(max_size=4096))
def test_any_bytes_after_a_magic_give_samples_or_one_line_of_error(head, rest):
    check(head + rest)
