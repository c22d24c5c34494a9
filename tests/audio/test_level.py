"""The gain: it keeps the streaming contract, does not raise silence, and the same features for speech of any level."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samba_asr.audio.features import LogMel
from samba_asr.audio.features_numpy import NumpyLogMel
from samba_asr.audio.level import HIGH, LOW, QUIET, TARGET, Level, last_hops
from samba_asr.audio.level_numpy import NumpyLevel
from samba_asr.audio.level_numpy import last_hops as numpy_last_hops
from samba_asr.audio.read import read
from samba_asr.config import FeatureConfig
from tests.contract import verify_streaming
from tests.shared import needs_shared, shared


def noise(*shape, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def gains(samples: torch.Tensor) -> torch.Tensor:
    """(t,) decibels for samples (s,) at 16 kHz."""
    return Level(16000, 160)(samples.view(1, -1, 1), torch.tensor([len(samples)]))[0][0, :, 0]


@pytest.mark.parametrize("scale", [0.001, 0.1, 1.0])
def test_it_keeps_the_law(scale):
    verify_streaming(Level(1000, 4), noise(4, 4 * 120, 1, scale=scale))


def test_log_mel_keeps_the_law_with_it():
    config = FeatureConfig(sample_rate=1000, window=10, hop=4, mels=4, low_hz=10, high_hz=450, gain=True)
    verify_streaming(LogMel(config), noise(4, 4 * 60, 1, scale=0.01))


def speech(level: float, background: float = -60.0, seconds: float = 4.0) -> torch.Tensor:
    """Noise of `level` dB in bursts of 0.3 s, with pauses of 0.3 s at `background` dB; it begins with a pause."""
    s = round(seconds * 16000)
    loud = (torch.arange(s) // 4800) % 2 == 1
    return noise(s, scale=1.0) * torch.where(loud, 10 ** (level / 20), 10 ** (background / 20))


@pytest.mark.parametrize("level", [LOW + 2, -22.0, HIGH - 2])
def test_speech_of_the_usual_level_is_left_alone(level):
    found = gains(speech(level))
    assert found[60:].abs().max() < 0.5
    assert found.max() < 7.0  # nor before the first word, by much


@pytest.mark.parametrize("level", [-36.0, -46.0, -56.0, -64.0])
def test_quiet_speech_is_raised_to_the_usual_level(level):
    found = gains(speech(level, level - 44))
    assert (level + found[60:]).min() > TARGET - 2
    assert (level + found[60:]).max() < TARGET + 2


def test_the_gain_moves_slowly():
    quiet, loud = speech(-48.0, -92.0), speech(-42.0, -92.0)  # one speaks up
    found = gains(torch.cat([quiet, loud]))
    assert found[60:].diff().abs().max() < 0.5  # dB in 10 ms


def test_loud_speech_is_lowered():
    assert gains(speech(0.0))[60:].max() == pytest.approx(HIGH, abs=1.5)


@pytest.mark.parametrize("level", [-100.0, -70.0, -50.0, -30.0])
def test_a_background_alone_is_of_no_quiet_recording_is_not_raised(level):
    found = gains(noise(16000 * 30, scale=10 ** (level / 20)))
    assert (level + found).max() <= max(level, QUIET) + 2.0


def test_digital_silence_stays_it():
    found = gains(torch.zeros(16000))
    assert found.max() == 0
    features, _ = LogMel(FeatureConfig(gain=True))(torch.zeros(1, 16000, 1), torch.tensor([16000]))
    assert torch.isfinite(features).all()
    assert features.unique().numel() == 1


@needs_shared("cases")
@pytest.mark.parametrize("lower", [26, 32, 40, 46])
def test_features_of_speech_are_nearly_those_of_its_own_level(lower):
    samples = read(shared("cases/base.wav")).samples
    quiet = np.round(samples * 10 ** (-lower / 20) * 32768) / 32768
    module = LogMel(FeatureConfig(gain=True))

    def features(x: np.ndarray) -> torch.Tensor:
        return module(torch.from_numpy(x.astype(np.float32)).view(1, -1, 1), torch.tensor([len(x)]))[0][0]

    shift = (features(quiet) - features(samples))[100:].mean()
    assert abs(10 * shift / np.log(10)) < 8.0


@needs_shared("cases")
@pytest.mark.parametrize("gain", [0.001, 0.03, 1.0, 5.0])
def test_the_twin_in_numpy_gives_the_same_features(gain):
    samples = np.clip(gain * read(shared("cases/base.wav")).samples, -1, 1)
    samples = samples[: len(samples) // 160 * 160].astype(np.float32)
    config = FeatureConfig(gain=True)
    module = LogMel(config)
    wanted = module(torch.from_numpy(samples).view(1, -1, 1), torch.tensor([len(samples)]))[0][0].numpy()
    arrays = {name: getattr(module, name).numpy() for name in ("window", "bank", "mean", "std")}
    twin = NumpyLogMel(arrays, config.hop, NumpyLevel(config.sample_rate, config.hop))
    state, found = twin.init_state(), []
    for chunk in np.split(samples, [160, 480, 4800, 4800, 32000]):
        (features,), (state,) = twin.step([chunk], [state])
        found.append(features)
    np.testing.assert_allclose(np.concatenate(found), wanted, atol=2e-3)


@pytest.mark.parametrize("window", [1, 2, 7, 40])
@pytest.mark.parametrize("t", [1, 3, 39, 40, 41, 97])
def test_the_sums_of_windows_are_those_of_each_window_alone(window, t):
    x = noise(3, window - 1 + t, 2).abs()
    windows = x.unfold(1, window, 1)  # (b, t, 2, window)
    expected = torch.stack([*windows.sum(-1).unbind(-1), windows[:, :, 0].amax(-1)])
    torch.testing.assert_close(torch.stack(last_hops(x, window)), expected)
    found = numpy_last_hops(x[1].double().numpy(), window)
    np.testing.assert_allclose(np.stack(found), expected[:, 1], rtol=1e-5)
