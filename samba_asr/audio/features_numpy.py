"""Log-mel features in numpy: the twin of `samba_asr.audio.features.LogMel`, for runtimes without torch.

It computes in float32 with numpy's FFT.  A spectrum as a product with cosines, which an exported graph would need, is wrong by
up to 0.3 where a frequency is far quieter than the loudest, as in speech.
Shapes: s samples, t frames, m mels, f frequency bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from samba_asr.audio.level_numpy import LevelState, NumpyLevel
from samba_asr.threads import each

FLOOR = np.float32(1e-8)  # as in samba_asr.audio.features
PIECE = 128  # frames in one FFT: it fits into the cache, which halves the time
BAND = 10
"""Mels of one product.  They need a few neighboring bins, and a product so small stays in one thread of numpy's BLAS.  The whole
bank at once ran in several, which wait for each other while graphs and searches use the cores: a file took twice the time."""


class FeatureState(NamedTuple):
    """State of one session."""

    samples: np.ndarray  # (window - hop,) the last samples
    level: LevelState | None  # of the gain, if the model has one


class NumpyLogMel:
    """Waveforms (s,) of any number of sessions -> normalized log-mel (s / hop, m) of each."""

    def __init__(self, arrays: Mapping[str, np.ndarray], hop: int, level: NumpyLevel | None = None):
        """arrays: window (w,), bank (m, f), mean (m,) and std (m,) of a `LogMel`.  hop: samples between frames.

        level: the gain of the model, None without.
        """
        self._level = level
        self._window, self._mean, self._std = (arrays[name].astype(np.float32) for name in ("window", "mean", "std"))
        bank = arrays["bank"].astype(np.float32)
        self._bands = [_band(bank, first) for first in range(0, len(bank), BAND)]
        self._hop, self._size = hop, len(self._window)
        self._n_fft = 2 * (bank.shape[1] - 1)
        self.mels = len(bank)

    def init_state(self) -> FeatureState:
        """Return the state before the first sample: silence."""
        level = self._level.init_state() if self._level else None
        return FeatureState(np.zeros(self._size - self._hop, np.float32), level)

    def step(
        self, audio: Sequence[np.ndarray], states: Sequence[FeatureState], threads: int = 1
    ) -> tuple[list[np.ndarray], list[FeatureState]]:
        """Process the next chunk of each session, float32 (s,), s a multiple of the hop; return features and new states.

        threads: for the sessions, at most.
        """
        found: list[tuple[np.ndarray, FeatureState]] = [(np.zeros(0), state) for state in states]

        def row(i: int) -> None:
            found[i] = self._row(audio[i], states[i])

        each(row, range(len(found)), threads)
        return [features for features, _ in found], [after for _, after in found]

    def _row(self, samples: np.ndarray, state: FeatureState) -> tuple[np.ndarray, FeatureState]:
        """Process the next chunk of one session."""
        x, t, gain, level = np.concatenate([state.samples, samples]), len(samples) // self._hop, None, state.level
        if self._level and level:
            gain, level = self._level.step(samples, level)
        if t == 0:
            return np.zeros((0, self.mels), np.float32), FeatureState(x, level)
        windows = np.lib.stride_tricks.sliding_window_view(x, self._size)[:: self._hop][:t]
        features = np.empty((t, self.mels), np.float32)
        for at in range(0, t, PIECE):
            spectrum = np.fft.rfft(windows[at : at + PIECE] * self._window, self._n_fft)
            power = np.square(spectrum.real) + np.square(spectrum.imag)
            if gain is not None:  # before FLOOR is added, which would drown quiet speech
                power = power * (10 ** (gain[at : at + PIECE, None] / 10))
            power, here = power.astype(np.float32, copy=False), features[at : at + PIECE]
            for mels, bins, weights in self._bands:
                here[:, mels] = power[:, bins] @ weights
            np.log(here + FLOOR, out=here)
        after = FeatureState(x[len(x) - len(state.samples) :].copy(), level)
        return (features - self._mean) / self._std, after


def _band(bank: np.ndarray, first: int) -> tuple[slice, slice, np.ndarray]:
    """Return the mels of the band that begins at `first`, the bins that they need, and their weights (f', m')."""
    some = bank[first : first + BAND]
    used = np.flatnonzero(some.any(0))
    bins = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)
    return slice(first, first + len(some)), bins, np.ascontiguousarray(some[:, bins].T)
