"""Session: samples in, events out, for one stream of audio; `samba_asr.steps` advances any number of them.

    session = recognizer.session(rate=16000, latency_ms=640)
    session.feed(samples)                      # float32 (s,), any length
    advance(recognizer, [session])             # a step of this session and others, if they are due
    for event in session.events(): ...         # each once

A session is due when its audio fills an encoder block, or when `flush` or `end` was called.  So blocks are never computed in
parts.  Its text depends neither on the sessions that share its steps nor on how its audio was cut into chunks.  A session has no
thread, no socket and no file: `Stream`, `Recognizer.listen` and the engine of the service all use it.

    Partial(text, stable, until)   text of the open segment so far
    Final(segment)                 a finished segment
    Quiet(until, withheld)         all audio before `until` is done; its new part gave no segment, or words were dropped
    Flushed(name)                  all audio from before `flush(name)` is done
    Done(seconds)                  the session is over

With `turns` (`samba_asr.decoding.turns`) a session also has

    SpeechStarted(at)  EagerEnd(segment)  TurnResumed(at)  TurnEnded(at, until)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from samba_asr.audio.framer import Framer
from samba_asr.audio.samples import as_rate
from samba_asr.audio.vad import Gate
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.segment_state import Heard, SegmentState, Track
from samba_asr.decoding.segmenter import Segmenter
from samba_asr.decoding.transcript import Segment
from samba_asr.decoding.turns import EagerEnd, Signal, SpeechStarted, TurnEnded, TurnResumed, TurnRules
from samba_asr.errors import UserError
from samba_asr.runtime.base import MAX_STEP, AcousticRuntime, Latency

if TYPE_CHECKING:
    from samba_asr.decoding.written import Writer

PACKET = 0.4
"""Seconds of missing audio below which its features are hidden from the model, as time masks hid them in training, and the
encoder computes what was probably there.  From here on nothing is computed.  At 10 % loss in bursts of 200 ms the phones of
`english` differ by 11.2 % from those without loss; with silence in place of the packets by 16.8 %, with gaps by 17.0 %.
(A runtime that takes no gaps hears silence, up to `PAUSE`.)"""

PAUSE = 1.0
"""Seconds of missing audio that end a segment."""

FORGET = 10.0
"""Seconds of missing audio, or of a pause at the gate, after which the encoder starts again."""

TOUCH = 0.01  # encoder frames; two chunks with less between them touch

LONGEST_GAP = 3600.0
"""Seconds of missing audio in one call of `gap`, at most."""


class Over(RuntimeError):
    """Error: the session has ended and takes no more audio."""


@dataclass(frozen=True)
class Partial:
    """Text of the open segment so far."""

    text: str
    stable: str  # its beginning that no later partial changes; the final text may (decode.runtime.final_ms, decode.lm.neural)
    until: float  # seconds of audio that went through the model
    written: tuple[str, str] | None = (
        None  # both in the written form, in sessions that have a writer (`Writer.preview`)
    )
    turn_end: float | None = None  # probability that the turn is over, in sessions with turns

    @property
    def readable(self) -> str:
        """The written form, if it was asked for; else the spoken form."""
        return self.text if self.written is None else self.written[0]


@dataclass(frozen=True)
class Final:
    """A finished segment."""

    segment: Segment


@dataclass(frozen=True)
class Quiet:
    """Notice that all audio before `until` is done, and that its new part gave no segment, or words were dropped."""

    until: float  # seconds
    withheld: int = 0  # words dropped for low confidence (decode.endpoint.confidence)


@dataclass(frozen=True)
class Flushed:
    """Answer to `flush`: all audio from before it is done."""

    name: str


@dataclass(frozen=True)
class Done:
    """The last event of a session."""

    seconds: float  # of audio received


Event = Partial | Final | Quiet | Flushed | Done | SpeechStarted | EagerEnd | TurnResumed | TurnEnded


class Parts(Protocol):
    """The parts of a recognizer that a step needs."""

    @property
    def runtime(self) -> AcousticRuntime: ...

    @property
    def segmenter(self) -> Segmenter: ...


@dataclass(frozen=True)
class Chunk:
    """Whole frames of samples.  begin: encoder frame of the session where they begin, with all missing audio counted."""

    begin: float
    samples: np.ndarray


@dataclass(frozen=True)
class Cut:
    """End of a stretch of audio: the segment ends.

    event: answer to the call that cuts (`flush` or `end`), after which the encoder starts again.  None where the gate closes, or
        much audio is missing: the encoder goes on after a pause.
    seconds: of audio before the cut, for such a call.
    """

    event: Flushed | Done | None = None
    seconds: float = 0.0


class Entry(NamedTuple):
    """How the audio of a step follows what came before it."""

    begin: float | None  # encoder frame where a new stretch begins; None: the audio goes on
    fresh: bool = False  # whether the encoder starts again
    at: int = 0  # encoder frames of the session before
    gap: float = 0.0  # encoder frames that are missing before


class SessionWork(NamedTuple):
    """A session's share of one step: samples (s,), then a cut."""

    session: Session
    entry: Entry
    samples: np.ndarray
    cut: Cut | None


class Session:
    """One stream of audio, and its text.

    `feed`, `flush` and `end` only queue; the model runs in `samba_asr.steps`.  `take` and `due` read the queue.  So a caller with
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
        writer: Writer | None = None,
        turns: TurnRules | None = None,
        reread: bool = True,
        again: bool = False,
    ):
        """rate: samples a second of the input.  vad: detector of the gate (`samba_asr.audio.vad`), "" for none.

        partials: whether to emit `Partial` events; each of them reads all hypotheses.  UserError if the search has none.
        writer: for the written form of segments and partials; it belongs to this session.
        turns: rules of turns, for their events.  Then the writer must not wait for words after a segment.
        reread: whether a neural language model of the search reads each segment when it ends.
        again: whether each segment is read a second time for its final text, in larger blocks, if the recognizer has them.
        """
        if turns and writer and writer.ahead:
            raise UserError(f"ahead={writer.ahead}: a session with turns does not wait for words after a segment")
        if partials:
            parts.segmenter.search.require_partials()
        runtime = parts.runtime
        self._takes_gaps = runtime.takes_gaps
        self.rate, self.latency, self.partials = as_rate(rate), latency, partials
        self._writer = writer
        self._model_rate, self._stride, self._frame = runtime.rate, runtime.stride, runtime.frame
        self._vad = vad
        self._framer: Framer | None = self._new_framer()
        self._queue: deque[Chunk | Cut] = deque()
        self._waiting = 0  # samples in the queue, at the model's rate
        self._cuts = 0  # cuts in the queue
        self._offset = 0.0  # seconds received before the framer started
        self._fresh = True  # whether the encoder starts with the next audio
        self._paused = False  # whether the next audio comes after a pause
        self._taken = 0  # encoder frames taken since the encoder started, or since the last pause
        self._began = 0.0  # frame where they started, and all missing audio since then
        self._total = 0  # encoder frames taken in all
        # State that a step changes:
        self.state: Any = None  # of the runtime; None while it has no audio
        self.search: SegmentState = parts.segmenter.open(hotwords, turns, reread, again)
        self._open_at: float = 0  # frame where the open segment began after the last step
        self._nothing: tuple[str, float | None] = "", 0.0 if turns else None
        self._shown = self._nothing  # text and probability of the last partial
        self._events: deque[Event] = deque()
        self.over = False

    def __repr__(self) -> str:
        state = "over" if self.over else "ended" if self.ended else "open"
        return f"Session({state}, {self.seconds:.1f} s at {self.rate} Hz, {self.backlog:.1f} s waiting)"

    # ---- audio in ----------------------------------------------------------------------------------------------------

    def feed(self, samples: np.ndarray) -> None:
        """Queue the next chunk: float32 (s,) in [-1, 1], any length.

        UserError if a sample is not finite; then nothing is queued.  Over after `end`.
        """
        self._put(self._open_framer().accept(samples))

    def gap(self, seconds: float) -> None:
        """Say that the next `seconds` of audio are missing: lost packets, or silence that was not sent.  Times go on.

        What the encoder remembers fades as it would in silence, and nothing is computed.  Less than `PACKET` is computed, as time
        of which nothing is known; `PAUSE` or more, in one call or in several without audio between, ends the segment.
        UserError unless 0 <= seconds <= 3600; then nothing is queued.  Over after `end`.
        """
        framer = self._open_framer()
        if not 0 <= seconds <= LONGEST_GAP:
            raise UserError(f"a gap of {seconds:g} s: it must be from 0 to {LONGEST_GAP:g} s")
        longest, fill = (PACKET, np.nan) if self._takes_gaps else (PAUSE, 0.0)
        self._put(framer.skip(seconds, longest=longest, fill=fill, cut=PAUSE))

    def flush(self, name: str = "") -> None:
        """Finalize all audio so far, as if it ended here; `Flushed(name)` follows.  The session continues."""
        self._cut(Flushed(name))
        self._framer = self._new_framer()

    def end(self) -> None:
        """End the audio.  Further calls do nothing."""
        if self._framer is not None and not self.over:
            self._cut(Done(self.seconds))
            self._framer = None

    @property
    def ended(self) -> bool:
        """Whether the session takes no more audio."""
        return self._framer is None or self.over

    @property
    def seconds(self) -> float:
        """Seconds of audio received, with what is missing (`gap`)."""
        return self._offset + (self._framer.seconds if self._framer else 0.0)

    @property
    def backlog(self) -> float:
        """Seconds of queued audio."""
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
        if self._queue and self._queue[-1] == Cut():  # this call's own cut replaces it
            self._queue.pop()
            self._cuts -= 1
        self._offset += framer.seconds
        self._queue.append(Cut(event, self._offset))
        self._cuts += 1

    # ---- work for a step ---------------------------------------------------------------------------------------------

    def due(self, most: float = MAX_STEP) -> bool:
        """Return whether a whole block, `most` seconds of audio or a cut is queued."""
        if self._cuts:
            return True
        block, hop = self.latency.block, self.latency.hop
        beyond = self._taken - block  # frames beyond the first block
        missing = hop - beyond % hop if beyond >= 0 else -beyond
        return self._waiting >= min(missing, self._most(most)) * self._stride

    @property
    def cutting(self) -> bool:
        """Whether a `flush`, the end, or the end of speech at the gate is queued."""
        return self._cuts > 0

    def take(self, most: float = MAX_STEP) -> SessionWork:
        """Take the next audio from the queue, at most `most` seconds and up to a gap, and the cut after it if one was reached."""
        room, parts, begin = self._most(most) * self._stride, [], 0.0
        while self._queue and room and not isinstance(chunk := self._queue[0], Cut):
            taken = sum(map(len, parts)) / self._stride
            if parts and chunk.begin - begin - taken > TOUCH:
                break
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
        entry = self._enter(begin) if parts else Entry(None)
        self._taken += len(samples) // self._stride
        self._total += len(samples) // self._stride
        cut = None
        if self._queue and isinstance(first := self._queue[0], Cut):
            self._queue.popleft()
            self._cuts -= 1
            cut = first
        return SessionWork(self, entry, samples, cut)

    def _enter(self, begin: float) -> Entry:
        """Count what is missing before audio that begins at frame `begin`."""
        gap = begin - self._began - self._taken
        if self._fresh or gap * self._frame > FORGET:
            self._taken, self._began, self._fresh, self._paused = 0, begin, False, False
            return Entry(begin, fresh=True, at=self._total)
        gap = gap if gap > TOUCH else 0.0
        self._began += gap
        entry = Entry(begin if self._paused else None, at=self._total, gap=gap)
        self._paused = False
        return entry

    def drop(self) -> None:
        """End the session at once and drop its queue."""
        self.over = True
        self._queue.clear()
        self._waiting = self._cuts = 0

    def _most(self, seconds: float) -> int:
        """Return the number of whole frames in `seconds`, at least one."""
        return max(1, int(seconds * self._model_rate) // self._stride)

    def snapshot(self) -> tuple[Any, ...]:
        """Save the state that steps change, for `restore`.  States are values, so only lists are copied."""
        return self.state, self.search.copy(), self._open_at

    def restore(self, before: tuple[Any, ...]) -> None:
        """Undo the steps since a snapshot."""
        self.state, self.search, self._open_at = before

    # ---- events out --------------------------------------------------------------------------------------------------

    def events(self) -> list[Event]:
        """Return the events since the last call, in order; each event is returned once."""
        found = list(self._events)
        self._events.clear()
        return found

    def arrive(self, entry: Entry, samples: np.ndarray) -> None:
        """Prepare the search for the frames of the audio (s,) that was taken with this entry."""
        if self.search.audio is not None:
            if entry.fresh:
                self.search.track, self.search.audio = Track(), []
            self.search.audio.append(Heard(entry.gap, samples))
        if entry.begin is not None:
            self.search.begin = self._open_at = entry.begin
        elif entry.gap:
            self.search.missing[entry.at] = entry.gap

    def conclude(self, segmenter: Segmenter, cut: Cut | None) -> None:
        """Apply the cut, and queue the new events."""
        if cut is not None:
            segmenter.finish(self.search)
        found, withheld = segmenter.collect(self.search)
        ordered = cut is not None and cut.event is not None  # its own event says that all before it is done
        self._tell(found, ordered)
        silent = not any(isinstance(one, Segment) for one in found)
        if withheld or (self.search.begin > self._open_at and silent and not ordered):
            self._events.append(Quiet(round(self.search.begin * self._frame, 3), withheld))
        self._open_at = self.search.begin
        if cut is None:
            if self.partials and (shown := self._showing(segmenter)) != self._shown:
                self._shown = text, ending = shown
                until = round((self._began + self._taken) * self._frame, 3)
                stable = segmenter.stable(self.search)
                written = self._writer.preview(text, stable) if self._writer else None
                self._events.append(Partial(text, stable, until, written, ending))
            return
        self._paused = cut.event is None and self._takes_gaps
        if self._paused:
            self._began += self._taken
        else:
            self.state, self._fresh = None, True
        self._taken, self._shown = 0, self._nothing
        if cut.event is not None:
            self.search.begin = self._open_at = self._began = cut.seconds / self._frame
            self._events.append(cut.event)
            self.over = self.over or isinstance(cut.event, Done)  # it may have been dropped meanwhile

    def _showing(self, segmenter: Segmenter) -> tuple[str, float | None]:
        """Return text and probability for a partial."""
        ending = None if self.search.turns is None else round(segmenter.ending(self.search), 2)
        return segmenter.text(self.search), ending

    def _tell(self, found: Sequence[Segment | Signal], ends: bool) -> None:
        """Queue finals and signals in their order.  ends: whether the text ends with the last segment."""
        last = max((n for n, one in enumerate(found) if isinstance(one, Segment)), default=-1)
        if ends and last < 0:
            self._events.extend(map(Final, self._finals([], ends)))
        for n, one in enumerate(found):
            if isinstance(one, Segment):
                self._events.extend(map(Final, self._finals([one], ends and n == last)))
            elif isinstance(one, EagerEnd) and self._writer:
                self._events.append(EagerEnd(self._writer.draft(one.segment)))
            else:
                self._events.append(one)

    def _finals(self, segments: Sequence[Segment], ends: bool) -> list[Segment]:
        """Return the segments that are complete, with their written form if there is a writer."""
        if self._writer is None:
            return list(segments)
        if ends:
            return self._writer.finish(segments)
        return [ready for segment in segments for ready in self._writer.write(segment)]
