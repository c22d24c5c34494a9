"""Session: samples in, events out; and `advance`, one batched step of the model for any number of sessions.

    sessions = [recognizer.session(rate=16000, latency_ms=640) for _ in range(3)]
    sessions[0].feed(samples)                  # float32 (s,), any length
    advance(recognizer, sessions)              # one step for all that are due
    for event in sessions[0].events(): ...     # each once

A session is due when its audio fills an encoder block, so that none is computed in pieces, or when it was asked to flush or to
end.  Its text does not depend on which sessions share its steps, nor on how its audio was cut into chunks.  It has no thread,
no socket and no file: `Stream`, `Recognizer.listen` and the engine of the service all stand on it.

    Partial(text, stable, until)   the open segment as it stands
    Final(segment)                 a segment that is over
    Quiet(until)                   all audio before is done, and no segment came of what is new in it
    Flushed(name)                  all audio from before `flush(name)` is done
    Done(seconds)                  the session is over
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from samba_asr.audio.framer import Framer
from samba_asr.audio.vad import Gate
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.segmenter import Segmenter, SegmentState
from samba_asr.decoding.transcript import Segment
from samba_asr.runtime.base import MAX_STEP, AcousticRuntime, Latency


class Over(RuntimeError):
    """The session has ended: it takes no more audio."""


@dataclass(frozen=True)
class Partial:
    text: str
    stable: str  # the beginning of it that will not change
    until: float  # seconds of audio that went through the model


@dataclass(frozen=True)
class Final:
    segment: Segment


@dataclass(frozen=True)
class Quiet:
    until: float  # seconds


@dataclass(frozen=True)
class Flushed:
    name: str


@dataclass(frozen=True)
class Done:
    seconds: float  # of audio received


Event = Partial | Final | Quiet | Flushed | Done


class Parts(Protocol):
    """What a step needs of a recognizer."""

    @property
    def runtime(self) -> AcousticRuntime: ...

    @property
    def segmenter(self) -> Segmenter: ...


@dataclass(frozen=True)
class Chunk:
    """Whole frames of samples; `begin`: the encoder frame of the session where they begin."""

    begin: float
    samples: np.ndarray


@dataclass(frozen=True)
class Cut:
    """The encoder ends here, and begins anew with what comes after.

    event: the order that cuts; None for a gate that closes.  seconds: of audio before it, where an order cuts.
    """

    event: Flushed | Done | None = None
    seconds: float = 0.0


class Work(NamedTuple):
    """What one step does for a session: samples (s,), then a cut."""

    session: Session
    begin: float  # frame where the samples begin
    samples: np.ndarray
    cut: Cut | None


class Session:
    """One stream of audio and what is recognized in it.

    `feed`, `flush` and `end` only queue; the model runs in `advance`.  `take` and `due` read the queue, so a caller with
    threads guards these five by one lock; everything else belongs to the thread that advances.
    """

    def __init__(
        self,
        parts: Parts,
        rate: int,
        latency: Latency,
        *,
        hotwords: Hotwords | None = None,
        vad: str = "",
        partials: bool = True,
    ):
        """rate: samples a second of the audio that comes.  vad: detector of the gate (`samba_asr.audio.vad`), "" for none.

        partials: whether `Partial` events are wanted: each costs a look at all hypotheses.
        """
        runtime = parts.runtime
        self.rate, self.latency, self.partials = rate, latency, partials
        self._model_rate, self._stride, self._frame = runtime.rate, runtime.stride, runtime.frame
        self._vad = vad
        self._framer: Framer | None = self._new_framer()
        self._queue: deque[Chunk | Cut] = deque()
        self._waiting = 0  # samples in the queue, at the model's rate
        self._cuts = 0  # in the queue
        self._offset = 0.0  # seconds received before the framer began
        # What a step changes:
        self.state: Any = None  # of the runtime; None while no audio is in it
        self.search: SegmentState = parts.segmenter.open(hotwords)
        self._fed = 0  # encoder frames since the encoder began
        self._began = 0.0  # frame where it began
        self._open_at: float = 0  # frame where the open segment began at the last look
        self._shown = ""  # the last partial
        self._events: deque[Event] = deque()
        self.over = False

    # ---- audio in ----------------------------------------------------------------------------------------------------

    def feed(self, samples: np.ndarray) -> None:
        """The next chunk: float32 (s,) in [-1, 1], any length.  UserError, and nothing taken, if a sample is not finite; Over."""
        self._put(self._open_framer().accept(samples))

    def flush(self, name: str = "") -> None:
        """Make all audio so far final, as if it ended here; `Flushed(name)` follows.  The session goes on."""
        self._cut(Flushed(name))
        self._framer = self._new_framer()

    def end(self) -> None:
        """The end of the audio; once is enough."""
        if self._framer is not None and not self.over:
            self._cut(Done(self.seconds))
            self._framer = None

    @property
    def ended(self) -> bool:
        """Whether it takes no more audio."""
        return self._framer is None or self.over

    @property
    def seconds(self) -> float:
        """Seconds of audio received."""
        return self._offset + (self._framer.seconds if self._framer else 0.0)

    @property
    def backlog(self) -> float:
        """Seconds of audio that wait for the model."""
        return self._waiting / self._model_rate

    def _new_framer(self) -> Framer:
        gate = Gate(self._vad, self._model_rate) if self._vad else None
        return Framer(self.rate, self._model_rate, self._stride, gate)

    def _open_framer(self) -> Framer:
        if self._framer is None or self.over:
            raise Over("this session is over")
        return self._framer

    def _put(self, pieces: Iterable) -> None:
        for piece in pieces:
            if len(piece.samples):
                self._queue.append(Chunk(self._offset / self._frame + piece.at / self._stride, piece.samples))
                self._waiting += len(piece.samples)
            if piece.last:
                self._queue.append(Cut())
                self._cuts += 1

    def _cut(self, event: Flushed | Done) -> None:
        framer = self._open_framer()
        self._put(framer.finish())
        if self._queue and self._queue[-1] == Cut():  # the order's own cut does it
            self._queue.pop()
            self._cuts -= 1
        self._offset += framer.seconds
        self._queue.append(Cut(event, self._offset))
        self._cuts += 1

    # ---- work for a step ---------------------------------------------------------------------------------------------

    def due(self, most: float = MAX_STEP) -> bool:
        """Whether there is a block's worth of audio, or `most` seconds of it, or a cut."""
        if self._cuts:
            return True
        block, hop = self.latency.block, self.latency.hop
        beyond = self._fed - block  # the first block
        missing = hop - beyond % hop if beyond >= 0 else -beyond
        return self._waiting >= min(missing, self._most(most)) * self._stride

    def take(self, most: float = MAX_STEP) -> Work:
        """The next audio, at most `most` seconds, and the cut after it if it was reached."""
        room, parts, begin = self._most(most) * self._stride, [], 0.0
        while self._queue and room and not isinstance(chunk := self._queue[0], Cut):
            self._queue.popleft()
            if len(chunk.samples) > room:
                rest = Chunk(chunk.begin + room / self._stride, chunk.samples[room:])
                self._queue.appendleft(rest)
                chunk = Chunk(chunk.begin, chunk.samples[:room])
            begin = begin if parts else chunk.begin
            parts.append(chunk.samples)
            room -= len(chunk.samples)
        samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        self._waiting -= len(samples)
        cut = None
        if self._queue and isinstance(first := self._queue[0], Cut):
            self._queue.popleft()
            self._cuts -= 1
            cut = first
        return Work(self, begin, samples, cut)

    def drop(self) -> None:
        """Forget what waits: nobody wants the rest."""
        self.over = True
        self._queue.clear()
        self._waiting = self._cuts = 0

    def _most(self, seconds: float) -> int:
        """Whole frames in `seconds`, one at least."""
        return max(1, int(seconds * self._model_rate) // self._stride)

    def snapshot(self) -> tuple[Any, ...]:
        """What steps change, for `restore`; the states are values, so only lists are copied."""
        return self.state, self.search.copy(), self._fed, self._began, self._open_at

    def restore(self, before: tuple[Any, ...]) -> None:
        """Undo the steps since a snapshot."""
        self.state, self.search, self._fed, self._began, self._open_at = before

    # ---- events out --------------------------------------------------------------------------------------------------

    def events(self) -> list[Event]:
        """What is new since the last call, in order; each event is given once."""
        found = list(self._events)
        self._events.clear()
        return found

    def _begin(self, runtime: AcousticRuntime, begin: float) -> None:
        """The encoder begins, at this frame."""
        self.state, self._fed, self._began = runtime.start(self.latency), 0, begin
        self.search.begin = self._open_at = begin

    def _conclude(self, segmenter: Segmenter, cut: Cut | None) -> None:
        """Carry out the cut, and note what is new."""
        if cut is not None:
            segmenter.finish(self.search)
        over, self.search.segments = self.search.segments, []
        self._events.extend(map(Final, over))
        if self.search.begin > self._open_at and not over and (cut is None or cut.event is None):
            self._events.append(Quiet(round(self.search.begin * self._frame, 3)))
        self._open_at = self.search.begin
        if cut is None:
            if self.partials and (text := segmenter.text(self.search)) != self._shown:
                self._shown = text
                until = round((self._began + self._fed) * self._frame, 3)
                self._events.append(Partial(text, segmenter.stable(self.search), until))
            return
        self.state, self._fed, self._shown = None, 0, ""
        if cut.event is not None:
            self.search.begin = self._open_at = self._began = cut.seconds / self._frame
            self._events.append(cut.event)
            self.over = isinstance(cut.event, Done)


def advance(
    recognizer: Parts,
    sessions: Iterable[Session],
    *,
    most: float = MAX_STEP,
    ready: Callable[[Session], None] = lambda session: None,
) -> None:
    """One step of the model for all sessions that are due: at most `most` seconds of each.

    ready: called with each session as soon as its events are known: ends cost time, and come one after another.
    """
    for group in by_block(session.take(most) for session in sessions if session.due(most)):
        step(recognizer, group)
        drain(recognizer, group)
        for work in group:
            conclude(recognizer, work)
            ready(work.session)


def by_block(work: Iterable[Work]) -> list[list[Work]]:
    """Work in groups of one block size: these can share a step."""
    groups: dict[int, list[Work]] = {}
    for one in work:
        groups.setdefault(one.session.latency.block, []).append(one)
    return list(groups.values())


@torch.inference_mode()
def step(recognizer: Parts, work: Sequence[Work]) -> None:
    """The model and the search receive the samples of each, in one step."""
    work = [one for one in work if len(one.samples)]
    if not work:
        return
    runtime, sessions = recognizer.runtime, [one.session for one in work]
    for one in work:
        if one.session.state is None:
            one.session._begin(runtime, one.begin)
    frames, states = runtime.step([one.samples for one in work], [session.state for session in sessions])
    if frames.log_probs.shape[1]:
        recognizer.segmenter.step([session.search for session in sessions], frames)
    for one, state in zip(work, states, strict=True):
        one.session.state = state
        one.session._fed += len(one.samples) // runtime.stride


@torch.inference_mode()
def drain(recognizer: Parts, work: Sequence[Work]) -> None:
    """What the encoder still holds of those that are cut goes into the search."""
    ended = [one.session for one in work if one.cut is not None and one.session.state is not None]
    if not ended:
        return
    frames = recognizer.runtime.finish([session.state for session in ended])
    if frames.log_probs.shape[1]:
        recognizer.segmenter.step([session.search for session in ended], frames)


@torch.inference_mode()
def conclude(recognizer: Parts, work: Work) -> None:
    """Carry out the cut, if there is one, and add to the session's events."""
    work.session._conclude(recognizer.segmenter, work.cut)
