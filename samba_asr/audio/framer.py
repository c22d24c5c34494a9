"""Framing of a session's audio: chunks of any rate and length -> whole encoder frames of samples at the model's rate."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from samba_asr.audio.resample import Resampler
from samba_asr.audio.samples import as_samples
from samba_asr.audio.vad import Gate, Piece


class Framer:
    """Resampler, optional voice activity gate and cut into whole frames.

    `accept` audio, then `finish` once.  Both return pieces of whole frames.  A piece has its start, in samples at the model's
    rate, and a flag: whether it ends a stretch of speech, after which the model starts from its initial state.  Without a
    gate all audio is one stretch.  The last frame of a stretch is padded with silence, so no sample is lost.

    `skip` is for audio that is missing.  What follows has its true place in time, so the gap shows in the starts of the pieces.
    """

    def __init__(self, rate: int, target: int, stride: int, gate: Gate | None = None):
        """rate, target: samples per second of the input and of the model.  stride: samples per encoder frame."""
        self.rate, self.stride, self._target = rate, stride, target
        self._resampler, self._gate = Resampler(rate, target), gate
        self._rest = np.zeros(0, np.float32)  # less than a frame
        self._at = 0  # its first sample
        self._received = 0  # samples at the input's rate
        self._missing = 0.0  # seconds skipped
        self._without = 0.0  # of these, since the last audio

    @property
    def seconds(self) -> float:
        """Seconds of audio so far, with what is missing."""
        return self._received / self.rate + self._missing

    def accept(self, samples: np.ndarray) -> list[Piece]:
        """Accept the next chunk, (s,) of any length, float32 in [-1, 1] or integers.  UserError otherwise; it is not taken."""
        samples = as_samples(samples, received=self._received, rate=self.rate)
        self._received += len(samples)
        self._without = 0.0 if len(samples) else self._without
        return self._frames(self._open(self._resampler.step(samples)))

    def skip(self, seconds: float, *, longest: float, fill: float, cut: float) -> list[Piece]:
        """Leave out so many seconds of missing audio; return the pieces that are ready.

        longest: seconds below which samples of the value `fill` take the place of the audio instead.
        cut: seconds without any audio from which a stretch of speech ends here, in one call or in several.
        """
        pieces = self._frames(self._open(self._resampler.finish()))
        self._resampler = Resampler(self.rate, self._target)
        self._missing += seconds
        lost = max(0, round(self.seconds * self._target) - self._next())
        if seconds < longest:
            self._without = 0.0
            return pieces + self._frames(self._open(np.full(lost, fill, np.float32)))
        passing = True
        if self._gate is not None:
            passing = self._gate.passes
            pieces += self._frames(self._gate.skip(lost))
        end = self._at + len(self._rest) + lost
        rest = np.full(min(lost, -len(self._rest) % self.stride), fill, np.float32)  # of the last frame
        pieces += self._frames([Piece(self._at, rest, False)] if len(self._rest) else [])
        self._without += seconds
        if self._without >= cut and passing and not (pieces and pieces[-1].last):
            pieces.append(Piece(self._at, rest[:0], True))
        self._at = end
        return pieces

    def finish(self) -> list[Piece]:
        """End the audio; return the last pieces."""
        samples = self._resampler.finish()
        if self._gate is not None:
            return self._frames([*self._gate.accept(samples), *self._gate.finish()])
        return self._frames([Piece(self._at, samples, True)])

    def _next(self) -> int:
        """Return the place of the next sample, at the model's rate."""
        return self._gate.position if self._gate is not None else self._at + len(self._rest)

    def _open(self, samples: np.ndarray) -> list[Piece]:
        return self._gate.accept(samples) if self._gate is not None else [Piece(self._at, samples, False)]

    def _frames(self, pieces: Iterable[Piece]) -> list[Piece]:
        found = []
        for piece in pieces:
            if not len(self._rest):
                self._at = piece.at
            samples = np.concatenate([self._rest, piece.samples])
            if piece.last:
                samples = np.pad(samples, (0, -len(samples) % self.stride))
            n = len(samples) // self.stride * self.stride
            if n or piece.last:
                found.append(Piece(self._at, samples[:n], piece.last))
            self._rest, self._at = samples[n:], self._at + n
        return found
