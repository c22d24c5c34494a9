"""The gain of `samba_asr.audio.level` in numpy: the twin of `Level`, for runtimes without torch, and the constants of both.

Shapes: s samples, t hops.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LOW, TARGET, HIGH = -30.0, -24.0, -15.0  # dB of L: unchanged above LOW; where quieter speech is brought; largest
SLOPE = 2.0  # dB of gain for each dB below LOW, until TARGET is reached
QUIET = -65.0  # dB; a background below it may be that of a quiet recording
MOST = 46.0  # dB, largest gain
DARK, VOID = (
    -100.0,
    -95.0,
)  # dB; least background; one below VOID is digital silence, which says nothing of the recording
WINDOW, MEMORY, FIRST = 0.2, 30.0, 0.5  # seconds: of E, of L, and of the loudest hop that L begins with
ENOUGH = 0.35  # seconds of speech before its level alone decides the gain
START = 0.3  # of the power of the loudest hop so far: the mean of speech lies so far below its peaks
ACTIVE = 12.0  # dB of a hop over the background that make it speech
RISE = 1.0  # dB per second of the background
STANDS_OUT, SURE = 16.0, 4.0  # dB of L over N from which on it may be speech; dB of gain for each dB more


class LevelState(NamedTuple):
    """State of one session."""

    hops: np.ndarray  # (n - 1, 2) powers of the last hops, and whether they were received
    active: np.ndarray  # (m - 1, 2) powers of the last active hops, and whether they were active
    floor: float  # N, dB


class NumpyLevel:
    """Waveform (s,) in [-1, 1] of one session -> gain (s / hop,) in decibels."""

    def __init__(self, sample_rate: int, hop: int):
        self._hop = hop
        self._hops, self._memory = (max(1, round(seconds * sample_rate / hop)) for seconds in (WINDOW, MEMORY))
        self._first, self._enough = (max(1.0, seconds * sample_rate / hop) for seconds in (FIRST, ENOUGH))
        self._rise = RISE * hop / sample_rate  # dB a hop

    def init_state(self) -> LevelState:
        """Return the state before the first sample."""
        return LevelState(np.zeros((self._hops - 1, 2)), np.zeros((self._memory - 1, 2)), 1e4)

    def step(self, x: np.ndarray, state: LevelState) -> tuple[np.ndarray, LevelState]:
        """Process whole hops of samples."""
        t = len(x) // self._hop
        if t == 0:
            return np.zeros(0), state
        power = np.square(x[: t * self._hop].reshape(t, self._hop).astype(np.float64)).mean(-1)
        hops = np.concatenate([state.hops, np.stack([power, np.ones(t)], 1)])
        total, count = (
            np.lib.stride_tricks.sliding_window_view(hops, self._hops, axis=0).sum(-1).T
        )  # of few hops: directly
        energy, time = 10 * np.log10(total / count + 1e-12), np.arange(1, t + 1)
        down = np.maximum(energy, DARK) - self._rise * time
        bottoms = np.minimum.accumulate(np.concatenate([[state.floor], down]))[1:]
        noise = bottoms + self._rise * time
        speaks = (10 * np.log10(power + 1e-12) > noise + ACTIVE).astype(np.float64)
        active = np.concatenate([state.active, np.stack([power * speaks, speaks], 1)])
        total, count, loudest = last_hops(active, self._memory)
        rest = np.maximum(self._first - count, 0)
        speech = 10 * np.log10((total + rest * loudest * START) / (count + rest).clip(min=1e-9) + 1e-12)
        raised = np.clip(np.minimum(SLOPE * (LOW - speech), TARGET - speech), 0, MOST)
        background = np.where(noise > VOID, QUIET - noise, 0)
        evidence = np.minimum(count / self._enough, 1)
        known = np.maximum(np.maximum(background, evidence * SURE * (speech - noise - STANDS_OUT)), 0)
        gain = np.minimum(raised, known) - np.maximum(speech - HIGH, 0)
        after = LevelState(hops[t:].copy(), active[t:].copy(), float(bottoms[-1] + self._rise * t))
        return gain, after


def last_hops(x: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sums of powers, sums of counts and the largest power of the `window` hops up to each new one, each (t,).

    x: powers and counts (window - 1 + t, 2); see `samba_asr.audio.level.last_hops`.
    """
    sums, peaks = [], []
    for first in range(0, len(x) - window + 1, window):
        new = x[first + window - 1 : first + 2 * window - 1]
        old = np.concatenate([x[first : first + window - 1], np.zeros((2, 2))])
        common, ends = old[len(new) :], old[: len(new)][::-1]
        sums.append(ends.cumsum(0)[::-1] + common.sum(0) + new.cumsum(0))
        louder = np.maximum(np.maximum.accumulate(ends[:, 0])[::-1], np.maximum.accumulate(new[:, 0]))
        peaks.append(np.maximum(louder, common[:, 0].max()))
    total, count = np.concatenate(sums).T
    return total, count, np.concatenate(peaks)
