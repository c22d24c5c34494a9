"""Recording channels: spectra and noise floors, measured on real speakers and applied to other speech.

Synthetic speech has no noise floor, and half of the spectral spread of real recordings.  A speaker's channel is the long-term
spectrum of speech and of pauses, in BANDS bands, and the ratio of both powers.  `measure` finds a speaker's channel, and
`match` moves speech towards a channel drawn from many.  A file of channels is an .npz (`Channels.read`).

k channels, m bands, s samples
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samba_asr.errors import UserError

RATE = 16000  # samples per second, at which channels are measured
BANDS = 64  # mel bands from LOW to HIGH Hz
LOW, HIGH = 40.0, 8000.0
WINDOW, HOP = 0.032, 0.01  # seconds, of the frames for the spectra
SPEECH_DB = 25.0  # frames at most this far below the loudest are speech
PAUSE_DB = 6.0  # frames at most this far above the softest (their 5th percentile) are pauses
APART_DB = 6.0  # pauses must be at least this far below speech
SHORTEST_PAUSES = 1.0  # seconds per speaker, below which the noise floor is unknown
MOST_DB = 12.0  # largest gain of the filter, up or down
SNR_DB = (
    20.0,
    60.0,
)  # ratios are clipped to this range: augment.noise_prob covers worse ones, better ones are inaudible
TINY = 1e-12


@dataclass(frozen=True)
class Channels:
    """Channels of k speakers: spectra of speech and of pauses, (k, m) decibels, and speech over pauses, (k,) decibels."""

    speech_db: np.ndarray
    noise_db: np.ndarray
    snr_db: np.ndarray
    speaker: tuple[str, ...] = ()  # (k,) names, if known

    def __len__(self) -> int:
        return len(self.snr_db)

    @classmethod
    def read(cls, path: Path | str) -> Channels:
        """Read a file that `write` wrote.  UserError for another file, no channels, or numbers that are not finite."""
        try:
            with np.load(path, allow_pickle=False) as file:
                tables = [np.asarray(file[key], np.float64) for key in ("speech_db", "noise_db", "snr_db")]
                speaker = tuple(str(name) for name in file["speaker"]) if "speaker" in file.files else ()
        except (OSError, ValueError, EOFError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path}: not a file of channels ({error}): write one with samba-asr augment channels"
            ) from None
        k = len(tables[0])
        if k == 0 or [x.shape for x in tables] != [(k, BANDS), (k, BANDS), (k,)]:
            raise UserError(f"{path}: a file of channels holds speech_db and noise_db (k, {BANDS}) and snr_db (k,)")
        if not all(np.isfinite(x).all() for x in tables):
            raise UserError(f"{path}: its channels are not all finite: measure them again")
        speech, noise, snr = tables
        return cls(speech, noise, snr, speaker)

    def write(self, path: Path | str) -> None:
        with Path(path).open("wb") as file:  # given a path, np.savez would add .npz
            np.savez_compressed(
                file,
                speaker=np.array(self.speaker),
                **{key: getattr(self, key).astype(np.float16) for key in ("speech_db", "noise_db", "snr_db")},
            )


def match(samples: np.ndarray, rate: int, channels: Channels, rng: np.random.Generator) -> np.ndarray:
    """Move (s,) speech towards a channel drawn from `channels` -> (s,) float32 of the same power.

    50 to 100 % of the difference between the long-term spectra becomes a smooth filter, within MOST_DB.  Noise with the
    spectrum of the speaker's pauses is added at the speaker's ratio.  Silence is unchanged.
    """
    loud = _power(samples)
    if loud == 0:
        return samples
    k = int(rng.integers(len(channels)))
    wanted, have = channels.speech_db[k], band_spectrum(split_frames(samples, rate)[0].mean(0), rate)
    gain = (wanted - wanted.mean()) - (have - have.mean())
    gain = np.convolve(np.pad(gain, 3, "edge"), np.ones(7) / 7, "valid").clip(-MOST_DB, MOST_DB) * rng.uniform(0.5, 1)
    n = _padded(len(samples))
    matched = np.fft.irfft(np.fft.rfft(samples, n) * _amplitude(gain, n, rate), n)[: len(samples)]
    matched *= np.sqrt(loud / max(_power(matched), TINY))
    color = channels.noise_db[k] - channels.noise_db[k].mean()
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * _amplitude(color, n, rate), n)[: len(samples)]
    ratio = float(np.clip(channels.snr_db[k], *SNR_DB))
    return (matched + noise * np.sqrt(loud / max(_power(noise), TINY) / 10 ** (ratio / 10))).astype(np.float32)


def measure(recordings: Iterable[np.ndarray], rate: int) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Measure one speaker's channel from recordings (s,): speech_db (m,), noise_db (m,), snr_db; None with too few pauses.

    Pauses are found in each recording separately, because levels differ.
    """
    sums: list[Any] = [0.0, 0.0]  # of speech, of pauses: arrays, once there is some
    counts = [0, 0]
    for samples in recordings:
        for i, frames in enumerate(split_frames(samples, rate)):
            sums[i] = sums[i] + frames.sum(0)
            counts[i] += len(frames)
    if counts[1] * HOP < SHORTEST_PAUSES:
        return None
    speech, pauses = (total / count for total, count in zip(sums, counts, strict=True))
    ratio = 10 * np.log10((speech.mean() + TINY) / (pauses.mean() + TINY))
    return band_spectrum(speech, rate), band_spectrum(pauses, rate), float(ratio)


def measure_readers(readers: Iterable[tuple[str, Iterable[np.ndarray]]], rate: int) -> tuple[Channels, list[str]]:
    """Measure the channels of speakers, given by name and recordings.  Also return the names of those with too few pauses.

    UserError with fewer than two channels, because all speech would get the same one.
    """
    names, found, left_out = [], [], []
    for name, recordings in readers:
        channel = measure(recordings, rate)
        if channel is None:
            left_out.append(name)
            continue
        names.append(name)
        found.append(channel)
    if len(found) < 2:
        why = f"; {', '.join(left_out[:3])}: less than {SHORTEST_PAUSES:g} s of pauses" if left_out else ""
        raise UserError(f"channels of {len(found)} speakers: give two or more, as `speaker` in the manifests{why}")
    speech, noise, ratio = (np.array(x) for x in zip(*found, strict=True))
    return Channels(speech, noise, ratio, tuple(names)), left_out


def split_frames(samples: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return power spectra (f, bins) of the speech frames of (s,), at least one, and of the pause frames."""
    window, hop = round(WINDOW * rate), round(HOP * rate)
    if len(samples) < window:
        samples = np.pad(samples, (0, window - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop] * np.hanning(window)
    spectra = np.abs(np.fft.rfft(frames)) ** 2
    level = 10 * np.log10(spectra.mean(1) + TINY)
    loud, soft = level > level.max() - SPEECH_DB, level < np.percentile(level, 5) + PAUSE_DB
    speech = loud & ~soft if (loud & ~soft).any() else loud  # where noise is loud, pauses are loud too
    pauses = soft & (level < 10 * np.log10(spectra[speech].mean() + TINY) - APART_DB)
    return spectra[speech], spectra[pauses]


def band_spectrum(spectrum: np.ndarray, rate: int) -> np.ndarray:
    """Interpolate powers (bins,) from 0 Hz to half the rate -> (m,) decibels at the centers of the bands."""
    smooth = np.convolve(spectrum, np.ones(3) / 3, "same")
    return 10 * np.log10(np.interp(_centers(), np.linspace(0, rate / 2, len(smooth)), smooth) + TINY)


def _amplitude(gain_db: np.ndarray, n: int, rate: int) -> np.ndarray:
    """Interpolate (m,) decibels at the centers of the bands -> (n / 2 + 1,) factors of the bins of an n-sample transform."""
    return 10 ** (np.interp(np.fft.rfftfreq(n, 1 / rate), _centers(), gain_db) / 20)


def _centers() -> np.ndarray:
    """Return the centers of the bands, (m,) Hz."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (LOW, HIGH))
    return (700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1))[1:-1]


def _power(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0


def _padded(n: int) -> int:
    """Return an even length of at least n with a fast transform: a power of two, or three quarters of one."""
    whole = 1 << max(n - 1, 1).bit_length()
    return whole * 3 // 4 if n <= whole * 3 // 4 else whole
