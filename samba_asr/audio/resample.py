"""Resampling by soxr (HQ).  Streaming equals batch, bit for bit, however time is cut."""

from __future__ import annotations

from typing import Any

import numpy as np

from samba_asr.errors import UserError


def resample(samples: np.ndarray, rate: int, target: int = 16000) -> np.ndarray:
    """Resample float32 (s,) at `rate` -> float32 (about s * target / rate,) at `target`.  The same array for equal rates."""
    _check(samples, rate, target)
    if rate == target or not len(samples):
        return samples
    return _soxr().resample(samples, rate, target)


class Resampler:
    """Resampler of audio that arrives in chunks.

    The outputs of successive `step`s and of `finish`, concatenated, are `resample` of the concatenated chunks.
    A step may return few samples or none, because the filter waits for the following ones.
    """

    def __init__(self, rate: int, target: int = 16000):
        _check(np.zeros(0, np.float32), rate, target)
        self.rate, self.target = rate, target
        self._stream = None if rate == target else _soxr().ResampleStream(rate, target, 1, dtype="float32")
        self._finished = False

    def step(self, samples: np.ndarray) -> np.ndarray:
        """Process the next chunk, float32 (s,) of any length, also 0; return the samples that are final now, float32."""
        _check(samples, self.rate, self.target)
        if self._finished:
            raise RuntimeError("step after finish: make a new Resampler for the next stream")
        if self._stream is None or not len(samples):
            return samples
        return self._stream.resample_chunk(samples)

    def finish(self) -> np.ndarray:
        """Return the last samples.  Call it once."""
        if self._finished:
            raise RuntimeError("finish after finish: make a new Resampler for the next stream")
        self._finished = True
        empty = np.zeros(0, np.float32)
        return empty if self._stream is None else self._stream.resample_chunk(empty, last=True)


def _check(samples: np.ndarray, rate: int, target: int) -> None:
    if rate <= 0 or target <= 0:
        raise UserError(f"cannot resample from {rate} to {target} samples per second: give positive rates")
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise TypeError(f"samples must be float32 of shape (s,), not {samples.dtype} of shape {tuple(samples.shape)}")


def _soxr() -> Any:
    """Import soxr, which only audio of another rate needs: an exported model runs without it."""
    try:
        import soxr
    except ImportError:
        raise UserError(
            "audio of another sample rate than the model's needs the package soxr: pip install soxr"
        ) from None
    return soxr
