"""Log-mel: the streaming contract; the formulas of librosa, torch and torchaudio; the statistics of the training data."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch

from samba_asr.audio.features import FLOOR, LogMel, Statistics, mel_filterbank
from samba_asr.audio.features_numpy import NumpyLogMel
from samba_asr.config import FeatureConfig
from samba_asr.errors import UserError
from tests.contract import verify_streaming

TINY = FeatureConfig(sample_rate=1000, window=10, hop=4, mels=4, low_hz=10, high_hz=450)


def noise(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def spectrogram(x, config, n_fft):
    """(t, f) power of frames that end where their samples end: torch.stft, which centers a short window in n_fft."""
    spare = (n_fft - config.window) // 2
    x = torch.nn.functional.pad(x, (config.window - config.hop + spare, n_fft - config.window - spare))
    window = torch.hann_window(config.window)
    return torch.stft(x, n_fft, config.hop, config.window, window, center=False, return_complex=True).abs().square().mT


# --- the contract


@pytest.mark.parametrize(("window", "hop"), [(10, 4), (8, 8), (9, 2)])
def test_it_keeps_the_law(window, hop):
    module = LogMel(dataclasses.replace(TINY, window=window, hop=hop))
    module.set_statistics(torch.arange(4.0), torch.arange(4.0) + 1)
    verify_streaming(module, noise(4, hop * 12, 1))


def test_it_keeps_the_law_at_its_real_size():
    verify_streaming(LogMel(FeatureConfig()), noise(3, 160 * 5, 1), seeds=[0])


def test_samples_that_fill_no_hop_are_left_out():
    module = LogMel(TINY)
    x = noise(4, 23, 1)
    y, lengths = module(x, torch.tensor([23, 20, 3, 0]))
    assert lengths.tolist() == [5, 5, 0, 0]
    torch.testing.assert_close(y[0, :5], module(x[:1, :20], torch.tensor([20]))[0][0])


# --- the formulas


def test_it_is_the_log_of_the_mel_power_of_torchs_stft():
    config = FeatureConfig()
    x = noise(8000)
    got, lengths = LogMel(config)(x.view(1, -1, 1), torch.tensor([8000]))
    bank = mel_filterbank(16000, 512, 80, config.low_hz, config.high_hz)
    torch.testing.assert_close(got[0], (spectrogram(x, config, 512) @ bank.T + FLOOR).log(), atol=1e-4, rtol=1e-4)
    assert lengths.item() == 50


@pytest.mark.skipif(importlib.util.find_spec("librosa") is None, reason="librosa is not installed")
@pytest.mark.parametrize(
    ("rate", "n_fft", "mels", "low", "high"), [(16000, 512, 80, 20.0, 7600.0), (8000, 256, 40, 0.0, 4000.0)]
)
def test_the_filters_are_librosas(rate, n_fft, mels, low, high):
    import librosa

    want = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=mels, fmin=low, fmax=high)
    torch.testing.assert_close(mel_filterbank(rate, n_fft, mels, low, high), torch.from_numpy(want), atol=1e-6, rtol=0)


def test_it_is_torchaudios_mel_spectrogram():
    try:
        from torchaudio.transforms import MelSpectrogram
    except (ImportError, OSError) as error:  # its wheels want CUDA's libraries
        pytest.skip(f"torchaudio cannot be imported: {str(error).splitlines()[0]}")
    config = FeatureConfig()
    transform = MelSpectrogram(
        config.sample_rate,
        n_fft=512,
        win_length=config.window,
        hop_length=config.hop,
        f_min=config.low_hz,
        f_max=config.high_hz,
        n_mels=config.mels,
        center=False,
        norm="slaney",
        mel_scale="slaney",
    )
    x = noise(8000)
    want = (transform(torch.nn.functional.pad(x, (240 + 56, 56))).T + FLOOR).log()
    got, _ = LogMel(config)(x.view(1, -1, 1), torch.tensor([8000]))
    torch.testing.assert_close(got[0], want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mels", [1, 9, 23, 80, 200])  # of 200 the lowest are between two bins, and so are silent
def test_its_twin_in_numpy_gives_the_same(mels):
    module = LogMel(FeatureConfig(mels=mels))
    samples = 0.1 * torch.randn(200 * 160, generator=torch.Generator().manual_seed(5))
    wanted = module(samples.view(1, -1, 1), torch.tensor([len(samples)]))[0][0]
    twin = NumpyLogMel({name: getattr(module, name).numpy() for name in ("window", "bank", "mean", "std")}, 160)
    (found,), _ = twin.step([samples.numpy()], [twin.init_state()])
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=1e-4)


def test_a_tone_is_loudest_in_its_own_mel():
    config = FeatureConfig()
    bank = mel_filterbank(16000, 512, 80, config.low_hz, config.high_hz)
    tone = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / 16000)
    y, _ = LogMel(config)(tone.view(1, -1, 1), torch.tensor([8000]))
    assert int(y[0, 10].argmax()) == int(bank[:, round(1000 / 16000 * 512)].argmax())


def test_digital_silence_is_the_floor():
    y, _ = LogMel(FeatureConfig())(torch.zeros(1, 3200, 1), torch.tensor([3200]))
    torch.testing.assert_close(y, torch.tensor(FLOOR).log().expand_as(y))


def test_autocast_leaves_it_in_float32():
    module, x, lengths = LogMel(FeatureConfig()), noise(1, 3200, 1), torch.tensor([3200])
    want = module(x, lengths)[0]
    with torch.autocast("cpu", torch.bfloat16):
        got = module(x, lengths)[0]
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop": 11}, "hop 11 must not exceed window 10"),
        ({"high_hz": 600.0}, r"10 .. 600.0 Hz must rise and lie within 0 .. 500.0 Hz"),
        ({"low_hz": 450.0}, r"450.0 .. 450 Hz must rise"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(UserError, match=message):
        LogMel(dataclasses.replace(TINY, **change))


# --- statistics


def test_statistics_are_those_of_all_valid_frames():
    batches = [(torch.randn(3, 5, 4) * 2 + 1, torch.tensor([5, 0, 2])), (torch.randn(1, 9, 4), torch.tensor([7]))]
    statistics = Statistics(4)
    frames = []
    for x, lengths in batches:
        for row, n in enumerate(lengths.tolist()):
            x[row, n:] = float("nan")
            frames.append(x[row, :n])
        statistics.add(x, lengths)
    mean, std = statistics.result()
    frames = torch.cat(frames)
    torch.testing.assert_close(mean, frames.mean(0))
    torch.testing.assert_close(std, frames.std(0, unbiased=False))


def test_normalised_features_have_mean_0_and_deviation_1():
    module, x, lengths = LogMel(TINY), noise(3, 400, 1), torch.tensor([400, 320, 40])
    for _ in range(2):  # the second time, what is measured is normalised already
        statistics = Statistics(TINY.mels)
        statistics.add(*module(x, lengths))
        mean, std = statistics.result()
        module.set_statistics(mean, std)
    torch.testing.assert_close(mean, torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.ones(4), atol=1e-5, rtol=0)


def test_the_normalisation_is_part_of_the_weights_and_a_silent_mel_does_not_explode():
    module = LogMel(TINY)
    module.set_statistics(torch.ones(4), torch.zeros(4))
    assert set(module.state_dict()) == {"mean", "std"}
    assert module.std.min() == pytest.approx(1e-3)
