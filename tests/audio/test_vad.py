"""The gate: speech goes through whole, once, whatever the chunks; the rest does not."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.audio.read import read
from samba_asr.audio.resample import resample
from samba_asr.audio.vad import AFTER, BEFORE, DETECTORS, Energy, Gate
from samba_asr.errors import UserError
from tests.shared import needs_shared, shared

RATE = 16000
SILERO = importlib.util.find_spec("silero_vad") is not None and importlib.util.find_spec("onnxruntime") is not None
needs_silero = pytest.mark.skipif(not SILERO, reason="silero-vad or onnxruntime is not installed")


def burst(silence: float, speech: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    """Silence, then noise that stands for speech, then a long silence; all with a faint background."""
    rng = np.random.default_rng(seed)
    x = 1e-4 * rng.standard_normal(round((silence + speech + 5) * RATE))
    a, b = round(silence * RATE), round((silence + speech) * RATE)
    x[a:b] += level * rng.standard_normal(b - a)
    return x.astype(np.float32)


def through(gate: Gate, x: np.ndarray, sizes=()) -> list:
    pieces, at = [], 0
    for n in [*sizes, len(x)]:
        pieces += gate.accept(x[at : at + n])
        at += n
    return pieces + gate.finish()


def stretches(pieces) -> list[tuple[int, int]]:
    """First and last sample of what went through while the gate was open; checks that pieces touch."""
    found, begun = [], None
    for piece in pieces:
        if begun is None:
            begun = end = piece.at
        assert piece.at == end
        end += len(piece.samples)
        if piece.last:
            found.append((begun, end))
            begun = None
    assert begun is None
    return found


def test_speech_goes_through_with_what_is_around_it():
    x = burst(2.0, 3.0)
    ((begin, end),) = stretches(through(Gate("energy", RATE), x))
    assert begin / RATE == pytest.approx(2.0 - BEFORE, abs=0.05)
    assert end / RATE == pytest.approx(5.0 + AFTER, abs=0.05)


@given(sizes=st.lists(st.integers(0, 30000), max_size=10), silence=st.floats(0, 3), speech=st.floats(0.2, 3))
@settings(max_examples=30, deadline=None)
def test_chunks_do_not_matter_and_no_sample_is_changed_or_heard_twice(sizes, silence, speech):
    x = np.concatenate([burst(silence, speech), burst(0.3, 0.5, seed=1)])
    pieces = through(Gate("energy", RATE), x, sizes)
    assert stretches(pieces) == stretches(through(Gate("energy", RATE), x))
    end = 0
    for piece in pieces:
        assert piece.at >= end
        np.testing.assert_array_equal(piece.samples, x[piece.at : piece.at + len(piece.samples)])
        end = piece.at + len(piece.samples)


def test_a_pause_inside_a_sentence_keeps_the_gate_open():
    x = np.concatenate([burst(1.0, 1.0)[: round(3.2 * RATE)], burst(0.0, 1.0)])  # a pause of 1.2 s
    assert len(stretches(through(Gate("energy", RATE), x))) == 1


def test_silence_is_never_heard():
    for level in (0.0, 1e-4, 5e-4):
        x = level * np.random.default_rng(0).standard_normal(RATE * 5)
        assert through(Gate("energy", RATE), x.astype(np.float32)) == []
    assert through(Gate("energy", RATE), np.zeros(0, np.float32)) == []


def test_a_steady_noise_becomes_background_and_louder_speech_is_still_heard():
    rng = np.random.default_rng(0)
    x = 0.01 * rng.standard_normal(20 * RATE)  # -40 dB
    x[12 * RATE : 13 * RATE] += 0.1 * rng.standard_normal(RATE)
    found = stretches(through(Gate("energy", RATE), x.astype(np.float32)))
    assert len(found) == 2
    assert found[0][1] / RATE < 8
    assert found[1][0] / RATE == pytest.approx(12 - BEFORE, abs=0.05)


def test_audio_that_ends_in_speech_is_heard_to_its_last_sample():
    x = burst(1.0, 2.0)[: 3 * RATE - 123]
    assert stretches(through(Gate("energy", RATE), x))[-1][1] == len(x)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_energy_at_any_rate(rate):
    assert Energy(rate).block == rate // 25


def test_what_is_no_detector():
    with pytest.raises(UserError, match=r"decode.vad.method='webrtc': write energy or silero"):
        Gate("webrtc", RATE)


@needs_silero
class TestSilero:
    def test_other_rates_are_refused(self):
        with pytest.raises(UserError, match="8000 or 16000"):
            Gate("silero", 44100)

    def test_noise_that_is_no_speech_is_not_heard(self):
        assert through(Gate("silero", RATE), burst(1.0, 2.0)) == []

    @needs_shared("data/LibriSpeech/dev-5h")
    def test_it_hears_speech_and_two_streams_do_not_know_each_other(self):
        speech = speech_of()
        alone = stretches(through(Gate("silero", RATE), speech))
        assert alone
        one, other = Gate("silero", RATE), Gate("silero", RATE)
        pieces = []
        for n in range(0, len(speech), 5000):
            pieces += one.accept(speech[n : n + 5000])
            other.accept(burst(0.0, 0.3, seed=n)[:5000])
        assert stretches(pieces + one.finish()) == alone


def test_without_the_package_silero_says_what_to_install(monkeypatch):
    from samba_asr.audio import vad

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    vad._silero.cache_clear()
    with pytest.raises(UserError, match=r"'\.\[vad\]"):
        Gate("silero", RATE)
    vad._silero.cache_clear()


def speech_of() -> np.ndarray:
    """Silence, an utterance, silence."""
    path = sorted(shared("data/LibriSpeech/dev-5h").glob("**/*.opus"))[0]
    audio = read(path)
    x = resample(audio.samples, audio.rate, RATE)
    return np.concatenate([np.zeros(2 * RATE, np.float32), x, np.zeros(3 * RATE, np.float32)])


@needs_shared("data/LibriSpeech/dev-5h")
@pytest.mark.parametrize("name", [n for n in DETECTORS if n != "silero" or SILERO])
def test_real_speech_goes_through(name):
    x = speech_of()
    found = stretches(through(Gate(name, RATE), x))
    assert found[0][0] / RATE == pytest.approx(2.0 - BEFORE, abs=0.5)
    assert found[-1][1] <= len(x) - RATE
    assert sum(b - a for a, b in found) > 0.8 * (len(x) - 5 * RATE)
