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

FLOOR = np.float32(1e-8)  # as in samba_asr.audio.features


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
        self._bank = np.ascontiguousarray(arrays["bank"].astype(np.float32).T)  # (f, m)
        self._hop, self._size = hop, len(self._window)
        self._n_fft = 2 * (len(self._bank) - 1)

    @property
    def mels(self) -> int:
        """Number of mels."""
        return self._bank.shape[1]

    def init_state(self) -> FeatureState:
        """Return the state before the first sample: silence."""
        level = self._level.init_state() if self._level else None
        return FeatureState(np.zeros(self._size - self._hop, np.float32), level)

    def step(
        self, audio: Sequence[np.ndarray], states: Sequence[FeatureState]
    ) -> tuple[list[np.ndarray], list[FeatureState]]:
        """Process the next chunk of each session, float32 (s,), s a multiple of the hop; return features and new states."""
        whole = [np.concatenate([state.samples, samples]) for state, samples in zip(states, audio, strict=True)]
        counts = [len(samples) // self._hop for samples in audio]
        gains, after = [], []
        for x, samples, state in zip(whole, audio, states, strict=True):
            level = state.level
            if self._level and level:
                gain, level = self._level.step(samples, level)
                gains.append(gain)
            after.append(FeatureState(x[len(x) - len(state.samples) :].copy(), level))
        windows = [self._windows(x, n) for x, n in zip(whole, counts, strict=True) if n]
        if not windows:
            return [np.zeros((0, self.mels), np.float32) for _ in counts], after
        frames = np.concatenate(windows) * self._window  # (all t, w)
        spectrum = np.fft.rfft(frames, self._n_fft)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        if gains:  # before FLOOR is added, which would drown quiet speech
            power = power * (10 ** (np.concatenate(gains)[:, None] / 10))
        features = np.log(power.astype(np.float32, copy=False) @ self._bank + FLOOR)
        features = (features - self._mean) / self._std
        return np.split(features, np.cumsum(counts)[:-1]), after

    def _windows(self, x: np.ndarray, n: int) -> np.ndarray:
        """Return a view (n, w) of x (w - hop + n hop,)."""
        return np.lib.stride_tricks.sliding_window_view(x, self._size)[:: self._hop][:n]
