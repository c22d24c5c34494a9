"""Augmentation: each effect is of the size asked for, comes from the generator passed in, and moves nothing in time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.audio.augment import (
    NOISES,
    add_noise,
    augment_waveform,
    equalize,
    make_background,
    make_impulse_response,
    make_noise,
    narrow,
    reverberate,
    spec_augment,
    speed_perturb,
    surround,
    vocal_tract_length,
    volume,
)
from samba_asr.audio.features import LogMel
from samba_asr.config import AugmentConfig, FeatureConfig
from samba_asr.errors import UserError

RATE = 16000
LIBRISPEECH = {"time_masks": 10, "time_width": 100, "time_ratio": 0.15, "freq_masks": 2, "freq_width": 27}  # icefall's
ALL_ON = AugmentConfig(noise_prob=1.0, reverb_prob=1.0, narrow_prob=1.0)


def speech(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """Something with a voice's shape: harmonics of 120 Hz, four bursts a second."""
    time = np.arange(round(seconds * RATE)) / RATE
    voice = sum(np.sin(2 * np.pi * 120 * k * time + k) / k for k in range(1, 20))
    burst = np.clip(np.sin(2 * np.pi * 4 * time), 0, None)
    return (0.1 * voice * burst + 1e-4 * np.random.default_rng(seed).standard_normal(len(time))).astype(np.float32)


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    """Power of a over power of b."""
    return 10 * np.log10(np.mean(np.square(a, dtype=float)) / np.mean(np.square(b, dtype=float)))


class TestSpeed:
    @given(n=st.integers(0, 5000), factor=st.floats(0.8, 1.25))
    @settings(deadline=None, max_examples=50)
    def test_divides_the_length_by_the_factor(self, n, factor):
        assert abs(len(speed_perturb(np.zeros(n, np.float32), factor)) - n / factor) <= 1

    @pytest.mark.parametrize("factor", [0.9, 1.1])
    def test_multiplies_pitch_by_the_factor(self, factor):
        tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
        faster = speed_perturb(tone, factor)
        peak = np.argmax(np.abs(np.fft.rfft(faster, RATE)))  # bins of 1 Hz
        assert peak == pytest.approx(1000 * factor, abs=2)

    def test_factor_one_changes_nothing(self):
        x = speech()
        assert speed_perturb(x, 1.0) is x


class TestNoise:
    @given(snr_db=st.floats(-10, 40), color=st.sampled_from(NOISES), seed=st.integers(0, 2**32 - 1))
    @settings(deadline=None, max_examples=30)
    def test_signal_to_noise_ratio_is_what_was_asked(self, snr_db, color, seed):
        x = speech()
        noise = make_noise(len(x), color, np.random.default_rng(seed), [speech(0.7, 1), speech(1.5, 2)])
        noisy = add_noise(x, noise, snr_db)
        assert decibels(x, noisy.astype(float) - x) == pytest.approx(snr_db, abs=0.1)

    @pytest.mark.parametrize(("color", "fall"), [("white", 0), ("pink", 3.01), ("brown", 6.02)])
    def test_color_is_how_fast_the_spectrum_falls(self, color, fall):
        power = np.abs(np.fft.rfft(make_noise(1 << 17, color, np.random.default_rng(0)))) ** 2
        hz = np.fft.rfftfreq(1 << 17, 1 / RATE)
        octave = [power[(hz >= low) & (hz < 2 * low)].mean() for low in (500, 1000, 2000)]
        assert 10 * np.log10(octave[0] / octave[2]) / 2 == pytest.approx(fall, abs=0.3)

    @pytest.mark.parametrize("color", NOISES)
    @pytest.mark.parametrize("n", [0, 1, 2, 1000])
    def test_has_the_length_asked_for_and_unit_power(self, color, n):
        noise = make_noise(n, color, np.random.default_rng(0), [speech(0.2)])
        assert noise.shape == (n,)
        assert noise.dtype == np.float32
        if n == 1000:
            assert np.mean(noise**2) == pytest.approx(1, abs=1e-4)

    def test_short_noise_is_repeated(self):
        x = speech()
        noisy = add_noise(x, np.array([1, -1, 2], np.float32), 10)
        added = noisy - x
        np.testing.assert_allclose(added[:3000], np.tile(added[:3], 1000), atol=1e-6)

    def test_silence_stays_silent(self):
        silent = np.zeros(100, np.float32)
        assert np.array_equal(add_noise(silent, np.ones(100, np.float32), 10), silent)
        assert np.array_equal(add_noise(speech(), silent, 10), speech())

    def test_babble_needs_others(self):
        with pytest.raises(UserError, match="others"):
            make_noise(10, "babble", np.random.default_rng(0))
        with pytest.raises(UserError, match=r"purple.*white"):
            make_noise(10, "purple", np.random.default_rng(0))


class TestReverberation:
    @pytest.mark.parametrize("rt60", [0.1, 0.3, 0.6])
    def test_the_tail_falls_by_60_decibels_in_rt60(self, rt60):
        response = make_impulse_response(np.random.default_rng(0), RATE, rt60, reflections=0)
        energy = np.cumsum(response[1:].astype(float)[::-1] ** 2)[::-1]  # Schroeder's backward integral
        level = 10 * np.log10(energy / energy[0])
        at = [np.argmax(level < db) for db in (-5, -25)]  # T20: twenty decibels, times three
        assert 3 * (at[1] - at[0]) / RATE == pytest.approx(rt60, rel=0.15)

    @given(direct_db=st.floats(-5, 20), seed=st.integers(0, 1000), rt60=st.floats(0.05, 0.8))
    @settings(deadline=None, max_examples=30)
    def test_direct_sound_comes_first_and_is_as_strong_as_asked(self, direct_db, seed, rt60):
        response = make_impulse_response(np.random.default_rng(seed), RATE, rt60, direct_db=direct_db)
        assert response[0] == 1
        assert -10 * np.log10(np.sum(response[1:].astype(float) ** 2)) == pytest.approx(direct_db, abs=0.01)

    @given(n=st.integers(1, 3000), r=st.integers(1, 3000), seed=st.integers(0, 1000))
    @settings(deadline=None, max_examples=30)
    def test_is_the_convolution_scaled_and_aligned(self, n, r, seed):
        rng = np.random.default_rng(seed)
        x, response = rng.standard_normal(n).astype(np.float32), rng.standard_normal(r).astype(np.float32)
        wet = reverberate(x, response)
        direct = np.argmax(np.abs(response))
        full = np.convolve(x.astype(float), response.astype(float))[direct : direct + n]
        assert wet.shape == (n,)
        np.testing.assert_allclose(wet, full * np.sqrt(np.mean(x**2) / np.mean(full**2)), atol=1e-4)

    @pytest.mark.parametrize("delay", [0, 800])
    def test_words_stay_where_they_were(self, delay):
        x = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)  # unlike a voice, it has no period
        response = np.pad(make_impulse_response(np.random.default_rng(3), RATE, 0.5), (delay, 0))
        wet = reverberate(x, response)
        lags = np.correlate(wet, x[2000:12000], mode="valid")
        assert np.argmax(lags) == 2000
        assert decibels(wet, x) == pytest.approx(0, abs=0.01)


class TestNarrow:
    @given(seconds=st.floats(0.0, 1.0), rate=st.sampled_from([8000, 11025, 16000, 44100]))
    @settings(deadline=None, max_examples=30)
    def test_it_is_as_long_and_finite(self, seconds, rate):
        x = np.random.default_rng(0).standard_normal(round(seconds * rate)).astype(np.float32)
        y = narrow(x, rate)
        assert y.dtype == np.float32
        assert y.shape == x.shape
        assert np.isfinite(y).all()

    def test_nothing_is_left_above_4_khz_and_nothing_below_is_moved(self):
        time = np.arange(RATE) / RATE
        low, high = (np.sin(2 * np.pi * hz * time).astype(np.float32) for hz in (1000, 5000))
        middle = slice(1000, -1000)  # filters ring at the ends
        np.testing.assert_allclose(narrow(low, RATE)[middle], low[middle], atol=1e-3)
        assert np.abs(narrow(high, RATE)[middle]).max() < 1e-3

    def test_a_telephone_stays_as_it_is(self):
        x = speech()
        assert narrow(x, 8000) is x

    def test_without_it_the_same_is_drawn_as_before_there_was_any(self):
        config = AugmentConfig(noise_prob=1.0)
        draw = np.random.default_rng(3)
        augment_waveform(speech(), RATE, config, draw)
        same = np.random.default_rng(3)
        augment_waveform(speech(), RATE, dataclasses.replace(config, narrow_prob=0.0), same)
        assert draw.random() == same.random()
        heard = augment_waveform(speech(), RATE, dataclasses.replace(config, narrow_prob=1.0), np.random.default_rng(3))
        spectrum = np.abs(np.fft.rfft(heard))
        assert spectrum[len(spectrum) * 9 // 16 :].max() < 0.01 * spectrum.max()


class TestWaveform:
    def test_a_seed_gives_the_same_result_and_another_seed_another(self):
        x, others = speech(), [speech(0.5, 1)]
        one, same, other = (augment_waveform(x, RATE, ALL_ON, np.random.default_rng(s), others) for s in (1, 1, 2))
        assert np.array_equal(one, same)
        assert not np.array_equal(one[: len(other)], other[: len(one)])

    def test_leaves_its_input_alone(self):
        x = speech()
        augment_waveform(x, RATE, ALL_ON, np.random.default_rng(0), [x])
        assert np.array_equal(x, speech())

    def test_everything_off_is_the_identity(self):
        off = AugmentConfig(speed=(1.0,), volume_db=0)
        assert np.array_equal(augment_waveform(speech(), RATE, off, np.random.default_rng(0)), speech())

    @given(n=st.integers(0, 2000), seed=st.integers(0, 1000), silent=st.booleans())
    @settings(deadline=None, max_examples=50)
    def test_any_length_stays_finite_float32(self, n, seed, silent):
        x = np.zeros(n, np.float32) if silent else speech()[:n]
        y = augment_waveform(x, RATE, ALL_ON, np.random.default_rng(seed), [x] if n else [])
        assert y.dtype == np.float32
        assert np.isfinite(y).all()
        assert any(abs(len(y) - n / factor) <= 1 for factor in ALL_ON.speed)

    def test_without_others_noise_is_never_babble(self):
        config = AugmentConfig(speed=(1.0,), volume_db=0, noise_prob=1.0)
        for seed in range(20):
            noisy = augment_waveform(speech(), RATE, config, np.random.default_rng(seed))
            assert 9.9 < decibels(speech(), noisy.astype(float) - speech()) < 30.1

    @given(gain_db=st.floats(-20, 20))
    def test_volume_in_decibels(self, gain_db):
        assert decibels(volume(speech(0.1), gain_db), speech(0.1)) == pytest.approx(gain_db, abs=0.01)

    @pytest.mark.parametrize(
        ("bad", "word"),
        [
            ({"speed": ()}, "speed"),
            ({"speed": (0.0, 1.0)}, "speed"),
            ({"noise_prob": 1.5}, "noise_prob"),
            ({"volume_db": -1.0}, "volume_db"),
            ({"pad_seconds": -0.1}, "pad_seconds"),
            ({"silence_prob": 2.0}, "silence_prob"),
            ({"noise_snr_db": (30.0, 10.0)}, "noise_snr_db"),
            ({"rt60": (0.0, 0.5)}, "rt60"),
        ],
    )
    def test_a_wrong_value_is_named(self, bad, word):
        with pytest.raises(UserError, match=word):
            augment_waveform(speech(), RATE, AugmentConfig(**bad), np.random.default_rng(0))


class TestBackground:
    def test_is_between_nothing_and_a_loud_fan(self):
        rng = np.random.default_rng(0)
        powers = [np.mean(np.square(make_background(4000, rng), dtype=float)) for _ in range(200)]
        heard = 10 * np.log10([p for p in powers if p > 0])
        assert 30 < powers.count(0) < 70  # one in four
        assert -100.1 < heard.min() < -95
        assert -35 < heard.max() < -29.9

    @given(before=st.integers(0, 300), n=st.integers(1, 300), behind=st.integers(0, 300), seed=st.integers(0, 50))
    @settings(deadline=None, max_examples=50)
    def test_surrounds_speech_and_stays_below_it(self, before, n, behind, seed):
        speech = np.random.default_rng(seed).normal(scale=0.01, size=n).astype(np.float32)
        padded = surround(speech, before, behind, np.random.default_rng(seed))
        assert padded.shape == (before + n + behind,)
        assert padded.dtype == np.float32
        padded[before : before + n] -= speech
        assert np.mean(np.square(padded)) <= 0.0101 * np.mean(np.square(speech))

    def test_its_length_is_drawn_before_and_behind(self):
        config = AugmentConfig(speed=(1.0,), volume_db=0.0, pad_seconds=0.5)
        padded = [augment_waveform(speech(), RATE, config, np.random.default_rng(seed)) for seed in range(20)]
        added = [len(x) - RATE for x in padded]
        assert 0 <= min(added) < 0.3 * RATE
        assert 0.7 * RATE < max(added) <= RATE
        alone = augment_waveform(speech(), RATE, dataclasses.replace(config, pad_seconds=0.0), np.random.default_rng(0))
        untouched = [x for x in padded if len(x) == len(alone)]
        assert 0 < len(untouched) < 12  # as it is, for speech may begin and end abruptly
        assert all(np.array_equal(x, alone) for x in untouched)
        begin = lambda x: int(np.argmax(np.correlate(x, speech()[:2000], "valid")))  # noqa: E731
        begins = [begin(x) for x in padded]
        assert 4 < begins.count(begin(alone)) < 16
        assert len(set(begins)) > 4


class TestVocalTractLength:
    CENTERS = LogMel(FeatureConfig()).centers

    def bend(self, x, spread=0.15, seed=0):
        return vocal_tract_length(x, torch.Generator().manual_seed(seed), spread=spread, centers=self.CENTERS)

    def test_a_formant_moves_by_one_factor_of_the_utterance_within_the_spread(self):
        hz = self.CENTERS
        x = -((hz - 1500) / 300).square() * torch.ones(50, 4, 1)  # 50 utterances with a peak at 1500 Hz
        y = self.bend(x)
        peaks = hz[y.argmax(-1)]  # (50, 4)
        assert (peaks == peaks[:, :1]).all()
        assert 1500 / 1.15 - 50 < peaks.min() < 1400
        assert 1650 < peaks.max() < 1500 / 0.85 + 50

    def test_nothing_moves_without_spread_and_the_top_stays(self):
        x = torch.randn(3, 5, 80)
        assert torch.equal(self.bend(x, spread=0.0), x)
        assert torch.allclose(self.bend(x)[..., -1], x[..., -1], atol=1e-5)

    @given(seed=st.integers(0, 1000), spread=st.floats(0, 0.49))
    @settings(deadline=None, max_examples=40)
    def test_bands_stay_in_order_and_between_the_values_that_were(self, seed, spread):
        ramp = torch.arange(80.0).expand(3, 2, 80)
        y = self.bend(ramp, spread, seed)
        assert (y.diff(dim=-1) >= 0).all()
        assert y.min() >= 0
        assert y.max() <= 79

    def test_padding_comes_back_as_nothing_that_matters_and_frames_stay_apart(self):
        x = torch.randn(2, 6, 80)
        x[1, 4:] = torch.nan
        y = self.bend(x)
        assert y[0].isfinite().all()
        assert y[1, :4].isfinite().all()

    def test_a_spread_out_of_range_is_named(self):
        with pytest.raises(UserError, match=r"vocal_tract=0\.7"):
            self.bend(torch.zeros(1, 1, 80), spread=0.7)


class TestEqualize:
    SCALE = torch.linspace(1, 2, 80)

    def filter(self, x, most_db=6.0, seed=0):
        return equalize(x, torch.Generator().manual_seed(seed), most_db=most_db, scale=self.SCALE[: x.shape[2]])

    @given(seed=st.integers(0, 1000), most_db=st.floats(0, 30))
    @settings(deadline=None, max_examples=40)
    def test_every_frame_of_an_utterance_is_lifted_alike_within_the_bound(self, seed, most_db):
        x = torch.randn(3, 5, 80)
        gain = (self.filter(x, most_db, seed) - x) * self.SCALE * 10 / np.log(10)  # decibels
        assert torch.allclose(gain, gain[:, :1].expand_as(gain), atol=1e-3)
        assert gain.abs().max() <= most_db + 1e-3

    def test_the_filter_is_smooth_reaches_far_and_is_each_utterances_own(self):
        gain = self.filter(torch.zeros(200, 1, 80))[:, 0] * self.SCALE * 10 / np.log(10)
        kinks = (gain.diff(n=2, dim=1).abs() > 1e-3).sum(1)  # where one line ends and the next begins: two bands see it
        assert kinks.max() <= 8  # of at most 4 inner knots
        assert kinks.max() >= 4
        assert gain.abs().amax(1).mean() > 3
        assert len(gain[:, 0].unique()) == 200

    def test_a_gain_is_of_power_in_the_natural_logarithm(self):
        before = LogMel(FeatureConfig()).double()
        audio = torch.from_numpy(speech()).double()[None, :, None]
        loud, _ = before(2 * audio, torch.tensor([RATE]))
        soft, _ = before(audio, torch.tensor([RATE]))
        seen = float((loud - soft)[soft > -5].median())
        assert seen == pytest.approx(10 * np.log10(4) * np.log(10) / 10, abs=0.01)  # 6 dB, as equalize has it

    def test_padding_stays_in_its_frames_and_nothing_happens_at_0_db(self):
        x = torch.randn(2, 6, 80)
        x[1, 4:] = float("nan")
        y = self.filter(x)
        assert y[0].isfinite().all()
        assert y[1, :4].isfinite().all()
        assert torch.equal(self.filter(x[:1], 0.0), x[:1])

    def test_a_bound_out_of_range_is_named(self):
        with pytest.raises(UserError, match=r"equalizer_db=40"):
            self.filter(torch.zeros(1, 1, 80), 40)


class TestSpecAugment:
    def mask(self, lengths, t=None, m=80, seed=0, **options) -> torch.Tensor:
        lengths = torch.tensor(lengths)
        t = int(lengths.max()) if t is None else t
        x = torch.ones(len(lengths), t, m)
        return spec_augment(x, lengths, torch.Generator().manual_seed(seed), **(LIBRISPEECH | options)) == 0

    @given(
        lengths=st.lists(st.integers(0, 400), min_size=1, max_size=4),
        masks=st.integers(0, 12),
        width=st.integers(0, 120),
        ratio=st.floats(0, 1),
        seed=st.integers(0, 1000),
    )
    @settings(deadline=None, max_examples=60)
    def test_time_masks_keep_to_their_share_and_off_the_padding(self, lengths, masks, width, ratio, seed):
        masked = self.mask(
            lengths, t=400, m=3, seed=seed, time_masks=masks, time_width=width, time_ratio=ratio, freq_masks=0
        )
        assert torch.equal(masked.any(2), masked.all(2))  # a frame is masked whole
        for row, length in zip(masked[:, :, 0], lengths, strict=True):
            assert row.sum() <= min(length * ratio, masks * width)
            assert not row[length:].any()

    @given(m=st.integers(1, 80), masks=st.integers(0, 3), width=st.integers(0, 90), seed=st.integers(0, 1000))
    @settings(deadline=None, max_examples=40)
    def test_frequency_masks_are_whole_bands_within_the_width(self, m, masks, width, seed):
        masked = self.mask([7, 5], m=m, seed=seed, time_masks=0, freq_masks=masks, freq_width=width)
        assert torch.equal(masked[0].any(0), masked[0].all(0))
        assert torch.equal(masked[1, :5].any(0), masked[1, :5].all(0))
        assert not masked[1, 5:].any()
        assert (masked[:, 0].sum(1) <= min(m, masks * width)).all()

    def test_padding_comes_back_as_it_was_even_nan(self):
        x = torch.randn(2, 300, 80)
        x[1, 200:] = torch.nan
        y = spec_augment(x, torch.tensor([300, 200]), torch.Generator().manual_seed(0), **LIBRISPEECH)
        assert y[1, 200:].isnan().all()
        assert not y[0].isnan().any()
        assert not y[1, :200].isnan().any()

    def test_a_seed_gives_the_same_masks_and_utterances_differ(self):
        one, same, other = (self.mask([600, 600], seed=s) for s in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert not torch.equal(one[0], one[1])

    def test_masks_of_a_twelve_second_utterance(self):
        """lhotse's rule: a budget of 0.15 * 1200 = 180 frames is two masks of 0 to 90: 90 frames less the overlap."""
        masked = self.mask([1200] * 200, freq_masks=0)[:, :, 0].sum(1).double()
        assert masked.max() <= 180
        assert masked.mean() == pytest.approx(88, rel=0.1)

    def test_every_place_is_masked_about_as_often(self):
        masked = self.mask([100] * 2000, time_masks=1, time_width=10, time_ratio=1, freq_masks=0)[:, :, 0].double()
        middle = masked.mean(0)[10:90]
        assert middle.min() > 0.025
        assert middle.max() < 0.085

    def test_gradients_flow_where_nothing_is_masked(self):
        x = torch.randn(1, 200, 80, requires_grad=True)
        y = spec_augment(x, torch.tensor([200]), torch.Generator().manual_seed(0), **LIBRISPEECH)
        y.sum().backward()
        assert torch.equal(x.grad == 0, y == 0)
