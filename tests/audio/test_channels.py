"""Channels: what is measured of recordings comes out again when speech is matched to it."""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import pytest
import soundfile

from samba_asr import config as configs
from samba_asr.audio.augment import augment_waveform
from samba_asr.audio.channels import BANDS, MOST_DB, RATE, Channels, band_spectrum, match, measure, split_frames
from samba_asr.commands import augment
from samba_asr.data.dataset import TrainingSet
from samba_asr.data.manifest import Utterance, write_manifest
from samba_asr.errors import UserError
from samba_asr.text.tokenizer import CharTokenizer
from tests.shared import needs_shared, shared


def filtered(noise: np.ndarray, tilt: float) -> np.ndarray:
    """Noise (s,) with so many decibels more at half the rate than at 0 Hz."""
    n = len(noise)
    return np.fft.irfft(np.fft.rfft(noise) * 10 ** (np.linspace(0, tilt, n // 2 + 1) / 20), n)


def recording(seed: int, *, tilt: float = 0.0, snr: float = 40.0, seconds: float = 4.0) -> np.ndarray:
    """Bursts of filtered noise, half of the time, over white noise `snr` decibels below them."""
    rng = np.random.default_rng(seed)
    n = int(RATE * seconds)
    loud = filtered(rng.standard_normal(n), tilt)
    loud *= 0.1 / np.sqrt(np.mean(loud**2))
    bursts = np.arange(n) // (RATE // 2) % 2 == 0
    return (loud * bursts + rng.standard_normal(n) * 0.1 * 10 ** (-snr / 20)).astype(np.float32)


def channels(*rows: tuple[float, float]) -> Channels:
    """Of tilts and ratios."""
    found = [measure([recording(i, tilt=tilt, snr=snr)], RATE) for i, (tilt, snr) in enumerate(rows)]
    return Channels(*(np.array(x) for x in zip(*found, strict=True)))


def shape(samples: np.ndarray) -> np.ndarray:
    spectrum = band_spectrum(split_frames(samples, RATE)[0].mean(0), RATE)
    return spectrum - spectrum.mean()


@pytest.mark.parametrize("snr", [15, 30, 50])
@pytest.mark.parametrize("tilt", [-10, 0, 10])
def test_a_channel_is_the_spectrum_of_speech_that_of_pauses_and_their_ratio(tilt, snr):
    speech, noise, ratio = measure([recording(1, tilt=tilt, snr=snr), recording(2, tilt=tilt, snr=snr)], RATE)
    flat = shape(recording(3, tilt=0, snr=60))
    tilted = speech - speech.mean() - flat
    assert ratio == pytest.approx(snr, abs=1.5)
    assert tilted[-8:].mean() - tilted[:8].mean() == pytest.approx(tilt * 0.9, abs=1.5)
    assert abs(noise[-8:].mean() - noise[:8].mean()) < 1.5


def test_speech_takes_the_spectrum_and_the_noise_of_the_channel():
    wanted = channels((8, 25), (8, 25))
    x = recording(9, snr=90)
    rng = np.random.default_rng(0)
    told = [measure([match(x, RATE, wanted, rng)], RATE) for _ in range(8)]
    tilts = [speech[-8:].mean() - speech[:8].mean() for speech, _, _ in told]
    flat, full = (s[-8:].mean() - s[:8].mean() for s in (shape(x), wanted.speech_db[0]))
    share = (np.array(tilts) - flat) / (full - flat)
    assert share.min() > 0.45
    assert share.max() < 1.05
    # The ratio holds for the whole recording's power, half of which is pauses: 3 dB below the bursts.
    assert np.mean([ratio for _, _, ratio in told]) == pytest.approx(28, abs=1.5)


def test_matching_keeps_length_and_power_and_filters_by_12_decibels_at_most():
    x = recording(9, snr=90)
    far = channels((60, 60), (60, 60))
    rng = np.random.default_rng(0)
    for _ in range(4):
        y = match(x, RATE, far, rng)
        assert (y.shape, y.dtype) == (x.shape, np.float32)
        assert np.mean(y**2) == pytest.approx(np.mean(x**2), rel=0.02)
        assert np.abs(shape(y) - shape(x)).max() <= 2 * MOST_DB + 1
    assert not match(np.zeros(500, np.float32), RATE, far, rng).any()
    assert len(match(np.zeros(0, np.float32), RATE, far, rng)) == 0
    assert np.isfinite(match(x[:100], RATE, far, rng)).all()


def test_a_reader_without_a_second_of_pauses_has_no_channel():
    assert measure([recording(1, seconds=1.5)], RATE) is None
    assert measure([recording(n, seconds=1.5) for n in range(3)], RATE) is not None
    assert measure([], RATE) is None
    assert measure([np.zeros(RATE * 3, np.float32)], RATE) is None


def test_a_file_of_channels_reads_back(tmp_path):
    wrote = dataclasses.replace(channels((0, 20), (5, 40)), speaker=("a", "b"))
    wrote.write(tmp_path / "c.npz")
    read = Channels.read(tmp_path / "c.npz")
    assert (len(read), read.speaker) == (2, ("a", "b"))
    assert np.allclose(read.speech_db, wrote.speech_db, atol=0.1)
    assert np.allclose(read.snr_db, wrote.snr_db, atol=0.1)


@pytest.mark.parametrize(
    "content",
    [
        {"speech_db": np.zeros((2, BANDS))},
        {"speech_db": np.zeros((0, BANDS)), "noise_db": np.zeros((0, BANDS)), "snr_db": np.zeros(0)},
        {"speech_db": np.zeros((2, 7)), "noise_db": np.zeros((2, 7)), "snr_db": np.zeros(2)},
        {"speech_db": np.zeros((2, BANDS)), "noise_db": np.zeros((2, BANDS)), "snr_db": np.array([1, np.nan])},
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    np.savez(tmp_path / "c.npz", **content)
    with pytest.raises(UserError, match="channels"):
        Channels.read(tmp_path / "c.npz")
    with pytest.raises(UserError, match="write one with samba-asr augment channels"):
        Channels.read(tmp_path / "none.npz")


# ---- in training and on the command line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    utterances = []
    for i, (name, seconds) in enumerate([("a", 4), ("a", 4), ("b", 4), ("short", 1), ("", 4)]):
        soundfile.write(folder / f"{i}.flac", recording(i, snr=30, seconds=seconds), RATE)
        utterances.append(Utterance(f"u{i}", str(folder / f"{i}.flac"), "ab a", name, float(seconds)))
    write_manifest(folder / "corpus.jsonl", utterances)
    write_manifest(folder / "one.jsonl", utterances[:2])
    return folder, utterances


def call(*args) -> int:
    parser = argparse.ArgumentParser()
    augment.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["augment", "channels", *map(str, args)])
    return parsed.run(parsed)


def test_the_command_measures_readers_and_names_those_with_too_few_pauses(corpus, tmp_path, capsys):
    folder, _ = corpus
    assert call(folder / "corpus.jsonl", "--out", tmp_path / "c.npz") == 0
    assert Channels.read(tmp_path / "c.npz").speaker == ("a", "b")
    out = capsys.readouterr().out
    assert "skipped, less than 1 s of pauses: short" in out
    assert "2 readers, speech over pauses 30 dB" in out


def test_the_channel_of_one_reader_is_refused(corpus, tmp_path):
    folder, _ = corpus
    with pytest.raises(UserError, match="channels of 1 speakers: give two or more"):
        call(folder / "one.jsonl", "--out", tmp_path / "c.npz")
    assert not (tmp_path / "c.npz").exists()


def test_training_gives_utterances_a_channel_as_often_as_it_is_told(corpus, tmp_path):
    _, utterances = corpus
    channels((8, 25), (8, 25)).write(tmp_path / "c.npz")

    def ratios(*options):
        plain = ["augment.volume_db=0", "augment.speed=[1.0]", *options]
        data = TrainingSet(utterances, CharTokenizer(["▁", "a", "b"]), configs.load([], plain))
        waves = {
            i: x[:n] for e in (1, 2) for b in data.epoch(e) for i, x, n in zip(b.ids, b.audio, b.lengths, strict=True)
        }
        return [measure([x.numpy()], RATE)[2] for i, x in waves.items() if i != "u3"]

    always = f"augment.channels={tmp_path / 'c.npz'}"
    assert min(ratios()) > 29
    assert max(ratios(always, "augment.channel_prob=1")) < 28
    assert ratios(always, "augment.channel_prob=1") == ratios(always, "augment.channel_prob=1")
    for half in (always, "augment.channel_prob=0.5"):
        with pytest.raises(UserError, match="give both"):
            ratios(half)


def test_without_channels_there_is_no_channel_prob():
    config = configs.load([], ["augment.channel_prob=0.5"]).augment
    with pytest.raises(UserError, match=r"channel_prob=0\.5 needs channels"):
        augment_waveform(recording(1), RATE, config, np.random.default_rng(0))


@needs_shared("data/channels.npz")
def test_the_channels_of_190_readers_are_read():
    assert len(Channels.read(shared("data/channels.npz"))) == 190
