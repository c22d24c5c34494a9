"""Resampling: the stream equals the batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.audio.resample import Resampler, resample
from samba_asr.errors import UserError

RATES = [8000, 11025, 16000, 22050, 24000, 44100, 48000]


def tone(hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
def test_a_tone_stays_that_tone(rate):
    out = resample(tone(440, rate), rate)
    assert out.dtype == np.float32
    assert len(out) == 16000
    np.testing.assert_allclose(out[500:-500], tone(440, 16000)[500:-500], atol=1e-3)


def test_what_the_target_cannot_hold_is_removed():
    assert np.abs(resample(tone(10000, 48000), 48000)[500:-500]).max() < 1e-3


@settings(max_examples=60, deadline=None)
@given(rate=st.sampled_from(RATES), cuts=st.lists(st.integers(0, 3000), max_size=12), seed=st.integers(0, 99))
def test_a_stream_cut_anyhow_equals_the_batch_to_the_bit(rate, cuts, seed):
    samples = np.random.default_rng(seed).uniform(-1, 1, sum(cuts)).astype(np.float32)
    resampler = Resampler(rate)
    pieces = [resampler.step(piece) for piece in np.split(samples, np.cumsum(cuts))]
    streamed = np.concatenate([*pieces, resampler.finish()])
    np.testing.assert_array_equal(streamed, resample(samples, rate))


def test_the_same_rate_changes_nothing():
    samples = tone(440, 16000)
    assert resample(samples, 16000) is samples


def test_nothing_gives_nothing():
    assert resample(np.zeros(0, np.float32), 48000).shape == (0,)
    assert Resampler(48000).finish().shape == (0,)


def test_after_the_end_nothing_more_is_taken():
    resampler = Resampler(8000)
    resampler.finish()
    with pytest.raises(RuntimeError, match="after finish"):
        resampler.step(tone(440, 8000))
    with pytest.raises(RuntimeError, match="after finish"):
        resampler.finish()


@pytest.mark.parametrize(("rate", "target"), [(0, 16000), (16000, -1)])
def test_rates_are_positive(rate, target):
    with pytest.raises(UserError, match="give positive rates"):
        Resampler(rate, target)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="float32"):
        resample(np.zeros(100, np.int16), 8000)
