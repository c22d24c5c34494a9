"""Voice activity detection: the stretches of a session that hold speech.  The model skips the rest.

A gate opens shortly before its detector finds speech, and closes after a longer time without speech.  It decides in blocks
of fixed size, counted from the session's first sample, so the sizes of incoming chunks do not matter.

    energy   louder than the recent background; no model, any rate
    silero   Silero's network (`pip install '.[vad]'`), 16 or 8 kHz.  One ONNX session serves all streams of a process,
             because each stream keeps its own state
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from samba_asr.audio import onnx
from samba_asr.errors import UserError, missing_extra

BEFORE = 0.4  # seconds of audio kept before speech
AFTER = 1.6  # seconds without speech that close the gate: more than a pause that ends a segment


class Detector(Protocol):
    """Interface of a voice activity detector.  Its state is passed in and out."""

    block: int  # samples per decision

    def start(self) -> Any:
        """Return the state before the first block."""
        ...

    def step(self, samples: np.ndarray, state: Any) -> tuple[bool, Any]:
        """Return whether a block (block,) of float32 holds speech, and the next state.  The old state stays valid."""
        ...


class Energy:
    """Detector by energy: speech is `MARGIN` dB louder than the background.

    The background level follows quiet blocks at once and loud ones slowly.  So a new noise counts as speech until the level
    has followed it: in doubt, audio is processed.
    """

    MARGIN = 9.0  # dB
    RISE = 3.0  # dB per second
    QUIETEST, LOUDEST = -60.0, -25.0  # dB relative to full scale, the limits of the background level

    def __init__(self, rate: int):
        self.block = rate // 25
        self.rise = self.RISE * self.block / rate

    def start(self) -> float:
        return self.QUIETEST

    def step(self, samples: np.ndarray, state: float) -> tuple[bool, float]:
        level = 10 * float(np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-12))
        background = min(max(min(level, state + self.rise), self.QUIETEST), self.LOUDEST)
        return level > state + self.MARGIN, background


class Silero:
    """Detector by the network of silero-vad 5 and 6: blocks of 32 ms, with the last 4 ms of the previous block."""

    OPEN, SHUT = 0.5, 0.35  # probabilities that start speech, and that continue it (as in silero-vad)

    def __init__(self, rate: int):
        if rate not in (8000, 16000):
            raise UserError(
                f"decode.vad.method=silero needs 8000 or 16000 samples per second, this model has {rate}: "
                "use decode.vad.method=energy"
            )
        self.rate, self.block, self.context = rate, rate // 1000 * 32, rate // 1000 * 4
        self._network = _silero()

    def start(self) -> tuple[bool, np.ndarray, np.ndarray]:
        return False, np.zeros((2, 1, 128), np.float32), np.zeros(self.context, np.float32)

    def step(self, samples: np.ndarray, state: tuple) -> tuple[bool, tuple]:
        speech, memory, before = state
        x = np.concatenate([before, samples]).astype(np.float32)
        inputs = {"input": x[None], "state": memory, "sr": np.array(self.rate, np.int64)}
        probability, memory = self._network.run(None, inputs)
        speech = float(probability[0, 0]) >= (self.SHUT if speech else self.OPEN)
        return speech, (speech, memory, x[-self.context :])


@functools.cache
def _silero():
    """Load the network, once per process."""
    from importlib import resources
    from importlib.util import find_spec

    if find_spec("silero_vad") is None:
        raise missing_extra("silero-vad", "vad")
    return onnx.session(
        str(resources.files("silero_vad") / "data" / "silero_vad.onnx"), "vad"
    )  # too small a network to gain from more cores


DETECTORS = {"energy": Energy, "silero": Silero}


class Piece(NamedTuple):
    """A piece of a session's audio."""

    at: int  # index of the first sample in the session
    samples: np.ndarray  # (s,)
    last: bool  # the gate closes after it


class Gate:
    """Filter of one session's audio that passes speech, with some audio around it.  NaN is missing audio, which is silent."""

    def __init__(self, name: str, rate: int):
        """rate: samples per second of the audio.  UserError for an unknown detector, or one that does not support the rate."""
        if name not in DETECTORS:
            raise UserError(f"decode.vad.method={name!r}: write {' or '.join(DETECTORS)}, or leave it empty")
        self.detector = DETECTORS[name](rate)
        self._state = self.detector.start()
        self._before, self._after = round(BEFORE * rate), round(AFTER * rate)
        self._rest = np.zeros(0, np.float32)  # less than a block
        self._kept = np.zeros(0, np.float32)  # the latest audio while the gate is closed
        self._at = 0  # samples decided on
        self._open = False
        self._quiet = 0  # samples since speech

    def accept(self, samples: np.ndarray) -> list[Piece]:
        """Accept the next chunk, (s,) of any length; return the pieces that the gate passes."""
        self._rest = np.concatenate([self._rest, samples])
        block, count = self.detector.block, len(self._rest) // self.detector.block
        pieces = list(
            _joined(piece for n in range(count) for piece in self._block(self._rest[n * block : (n + 1) * block]))
        )
        self._rest = self._rest[count * block :]
        return pieces

    @property
    def position(self) -> int:
        """Number of samples accepted or skipped."""
        return self._at + len(self._rest)

    @property
    def passes(self) -> bool:
        """Whether the gate is open."""
        return self._open

    def skip(self, n: int) -> list[Piece]:
        """Leave out n samples that are missing, and no speech.  Return the rest of the audio before them, if it passes."""
        before, self._rest = self._rest, self._rest[:0]
        at, self._at = self._at, self._at + len(before) + n
        self._kept = self._kept[:0]
        if not self._open:
            return []
        self._quiet += n
        self._open = self._quiet < self._after
        return [Piece(at, before, not self._open)]

    def finish(self) -> list[Piece]:
        """End the audio; if the gate is open, return the rest, which does not fill a block."""
        if not self._open:
            return []
        self._open = False
        return [Piece(self._at, self._rest, True)]

    def _block(self, samples: np.ndarray) -> Iterator[Piece]:
        speech, self._state = self.detector.step(np.nan_to_num(samples), self._state)
        self._quiet = 0 if speech else self._quiet + len(samples)
        if self._open:
            self._open = self._quiet < self._after
            yield Piece(self._at, samples, not self._open)
        elif speech:
            self._open = True
            yield Piece(self._at - len(self._kept), np.concatenate([self._kept, samples]), False)
            self._kept = self._kept[:0]  # no audio is passed twice
        else:
            self._kept = np.concatenate([self._kept, samples])[-self._before :]
        self._at += len(samples)


def _joined(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Join adjacent pieces, because many short ones are slow."""
    run: list[Piece] = []
    for piece in pieces:
        run.append(piece)
        if piece.last:
            yield Piece(run[0].at, np.concatenate([p.samples for p in run]), True)
            run = []
    if run:
        yield Piece(run[0].at, np.concatenate([p.samples for p in run]), False)
