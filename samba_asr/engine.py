"""Many live sessions on one model: queue, fairness and failures; `samba_asr.session` does the work.

    with Engine(recognizer, max_sessions=50) as engine:                  # or engine.close()
        session = engine.open(listener, rate=48000, latency_ms=640)      # from any thread; Full if there is no room
        session.accept(samples); session.flush("a"); session.finish()

Each tick is one step of the model for at most `ROWS` sessions that are due, with at most `SHARE` seconds of each.  So neither a
file that was sent at once nor a crowd of sessions makes one wait long.  Those that waited longest come first; a session that
stops or flushes has a head start.

The text of a segment that has ended takes longer than a tick (`Segmenter.collect`), so a second thread reads it, and the partial
results of other sessions do not wait for it.  Meanwhile the session's own audio stays in its queue.  Finals are read in the order
in which their segments end.  If none waits, that thread reads open segments ahead (`samba_asr.decoding.larger_blocks`).

A session's events go to its listener, a function that is called in one of the two threads, or by `close`, and must return
at once.  In addition to the events of `samba_asr.session` there are

    Lag(seconds)            so many seconds of the session's audio wait for the model
    Idle(seconds)           no audio or command came for so long: the engine ends the session, and its last events follow
    Failed(reason)          an error ended the session; the others continue

No event is dropped.  For a slow client, the service drops the first of two successive `Lag` or `Partial`, and merges two `Quiet`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from samba_asr import steps
from samba_asr.decoding.turns import EagerEnd, SpeechStarted, TurnEnded, TurnResumed, TurnRules
from samba_asr.errors import UserError
from samba_asr.recognizer import Phrases, Recognizer
from samba_asr.session import Done, Event, Final, Flushed, Over, Partial, Quiet, Session, SessionWork
from samba_asr.threads import Worker

__all__ = [  # those of samba_asr.session too: a client of the engine needs no other module
    "Done",
    "EagerEnd",
    "Engine",
    "EngineCounts",
    "Event",
    "Failed",
    "Final",
    "Flushed",
    "Full",
    "Idle",
    "Lag",
    "LiveSession",
    "Over",
    "Partial",
    "Quiet",
    "SpeechStarted",
    "TurnEnded",
    "TurnResumed",
    "TurnRules",
]

logger = logging.getLogger(__name__)

SHARE = 2.0  # seconds of one session's audio in one tick, at most
LATE = 2.0  # seconds of a session's audio that may wait for the model before `Lag` is emitted
ROWS = 32  # sessions in one tick, at most
HEAD_START = 0.5  # seconds of waiting that a `flush` or the end counts as much as
GATHER = 0.02  # seconds that the engine waits for further sessions when one is due


class Full(UserError):
    """Error: there is no room for another session now."""


@dataclass(frozen=True)
class Lag:
    """Notice that a session's audio waits for the model."""

    seconds: float


@dataclass(frozen=True)
class Idle:
    """Notice that a session is ended because nothing came for so long."""

    seconds: float


@dataclass(frozen=True)
class Failed:
    """The last event of a session that an error ended."""

    reason: str


News = Event | Lag | Idle | Failed
"""Everything that a live session emits."""
Listener = Callable[[News], None]


@dataclass
class EngineCounts:
    """Totals of an engine, for metrics."""

    opened: int = 0
    refused: int = 0
    failed: int = 0
    ticks: int = 0
    rows: int = 0  # summed over ticks
    audio: float = 0.0  # seconds through the model
    busy: float = 0.0  # seconds of ticks
    finals: int = 0  # steps with which a segment ended, or a flush or the end came
    final_seconds: float = 0.0  # that took
    last: float = field(default_factory=time.monotonic)  # when the last tick ended

    def stepped(self, seconds: float, rows: int) -> None:
        """Count a finished tick of `rows` sessions.  Called in the engine's thread."""
        self.ticks += 1
        self.rows += rows
        self.busy += seconds
        self.last = time.monotonic()

    def read(self, seconds: float) -> None:
        """Count a step that the thread of finals concluded."""
        self.finals += 1
        self.final_seconds += seconds


class LiveSession:
    """One client's session in an engine; its methods may be called from any thread."""

    def __init__(self, engine: Engine, listener: Listener, session: Session):
        self.engine, self.listener, self.session = engine, listener, session
        self.active = time.monotonic()  # time of the last audio, command or step
        self.served = self.active  # time of its last tick
        self.job: Callable[[], None] | None = None  # reads the open segment ahead; waits for the thread of finals

    @property
    def over(self) -> bool:
        """Whether the session has ended or was canceled."""
        return self.session.over

    @property
    def backlog(self) -> float:
        """Seconds of queued audio."""
        return self.session.backlog

    def accept(self, samples: np.ndarray) -> None:
        """Queue the next chunk: float32 (s,) in [-1, 1], any length.

        UserError if a sample is not finite; then nothing is queued.  Over after the end.
        """
        with self.engine.lock:
            self.session.feed(samples)
            self._touch()

    def gap(self, seconds: float) -> None:
        """Say that the next `seconds` of audio are missing (`samba_asr.session.Session.gap`)."""
        with self.engine.lock:
            self.session.gap(seconds)
            self._touch()

    def flush(self, name: str = "") -> None:
        """Finalize all audio so far, as if it ended here; `Flushed(name)` follows."""
        with self.engine.lock:
            self.session.flush(name)
            self._touch()

    def finish(self) -> None:
        """End the audio.  Further calls do nothing; the engine may have ended the session already."""
        with self.engine.lock:
            self.session.end()
            self._touch()

    def _touch(self) -> None:
        self.active = time.monotonic()
        self.engine.wake.notify()

    def cancel(self) -> None:
        """End the session at once, without further events."""
        with self.engine.lock:
            self.engine.forget(self)


class Engine:
    """A thread that advances sessions."""

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        max_sessions: int = 64,
        idle_seconds: float = math.inf,
        counts: EngineCounts | None = None,
    ):
        """idle_seconds: a session without audio or a command for so long is ended.

        counts: totals of an engine that this one replaces.
        """
        if max_sessions < 1:
            raise UserError(f"max_sessions={max_sessions}: give 1 or more")
        self.recognizer, self.max_sessions, self.idle_seconds = recognizer, max_sessions, idle_seconds
        self.lock = threading.RLock()
        self.wake = threading.Condition(self.lock)
        self.sessions: list[LiveSession] = []
        self.counts = counts or EngineCounts()
        self.closing = self._ended = False
        self._reading: set[LiveSession] = set()  # sessions whose finals are being read, or wait for that
        self._finals = Worker("samba_asr-finals")
        self._thread = threading.Thread(target=self._run, name="samba_asr-engine", daemon=True)
        self._thread.start()

    def open(
        self,
        listener: Listener,
        rate: int,
        *,
        latency_ms: float | None = None,
        hotwords: Phrases = None,
        text: str = "spoken",
        digits: bool = True,
        turns: TurnRules | None = None,
    ) -> LiveSession:
        """Open a session; Full if there are `max_sessions`, UserError for settings that the recognizer does not support."""
        opened = self.recognizer.session(
            rate, latency_ms=latency_ms, hotwords=hotwords, text=text, digits=digits, turns=turns
        )
        session = LiveSession(self, listener, opened)
        with self.lock:
            if self.closing:
                raise Full("the service is going down")
            if len(self.sessions) >= self.max_sessions:
                self.counts.refused += 1
                raise Full(f"all {self.max_sessions} sessions are taken: try again later")
            self.sessions.append(session)
            self.counts.opened += 1
            return session

    def __repr__(self) -> str:
        return f"Engine({self.recognizer!r}, {len(self.sessions)} of {self.max_sessions} sessions)"

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def retire(self) -> None:
        """Take no new sessions; the engine ends with its last session."""
        with self.lock:
            self.closing = True
            self._ended = not self.sessions
            self.wake.notify()

    def close(self, grace: float = 10.0) -> None:
        """Take no new sessions, and end the active ones, which receive their last results within `grace` seconds."""
        until = time.monotonic() + grace
        with self.lock:
            self.closing = True
            for session in self.sessions:
                session.finish()
        while self.sessions and time.monotonic() < until:
            time.sleep(0.02)
        with self.lock:
            for session in list(self.sessions):
                self._emit(session, Failed("the service is going down"))
                self.forget(session)
            self._ended = True
            self.wake.notify()
        self._thread.join(timeout=30)
        self._finals.close(timeout=30)

    @property
    def responsive(self) -> float:
        """Time (`time.monotonic`) of the last sign of life: the last tick, or the begin of the final that is being read."""
        return min(self.counts.last, self._finals.since)

    def forget(self, session: LiveSession) -> None:
        """End a session at once and drop its queue."""
        session.session.drop()
        if session in self.sessions:
            self.sessions.remove(session)
        if self.closing and not self.sessions:
            self._ended = True
            self.wake.notify()

    # ---- the engine's thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self.lock:
                self._end_idle()
                while not self._ended and not self._due():
                    self.wake.wait(timeout=0.5)
                    self.counts.last = time.monotonic()
                    self._end_idle()
                if self._ended:
                    self._finals.close()
                    return
            time.sleep(GATHER)
            with self.lock:
                work = [(s, s.session.take(SHARE)) for s in self._next()]
            began = time.monotonic()
            for session, _ in work:
                session.active = session.served = began
            self._tick(work)
            self.counts.stepped(time.monotonic() - began, len(work))

    def _next(self) -> list[LiveSession]:
        """Return the sessions of the next tick, in fair turns."""
        return sorted(self._due(), key=lambda s: s.served - HEAD_START * s.session.cutting)[:ROWS]

    def _due(self) -> list[LiveSession]:
        """Return the sessions that can take a step: enough is queued, and none of their finals is being read."""
        return [s for s in self.sessions if s not in self._reading and s.session.due(SHARE)]

    def _end_idle(self) -> None:
        """End idle sessions.  Otherwise a transport that fails to close one would hold its place forever."""
        now = time.monotonic()
        for live in list(self.sessions):
            still = live not in self._reading and not live.session.due(SHARE)
            if now - live.active > self.idle_seconds and not live.session.ended and still:
                self._emit(live, Idle(self.idle_seconds))
                live.finish()

    def _tick(self, due: Sequence[tuple[LiveSession, SessionWork]]) -> None:
        """Run one step of all `due` sessions.  If it fails, each session runs alone, and those that fail again are ended."""
        owners = {work.session: live for live, work in due}
        for group in steps.by_block(work for _, work in due):
            self._all_or_each(owners, group, steps.step)
            self._all_or_each(owners, [w for w in group if not w.session.over], steps.drain)
            for work in (work for work in group if not work.session.over):
                if steps.ends_segment(work):
                    self._read_later(owners[work.session], work)
                else:
                    self._conclude(owners[work.session], work)

    def _read_later(self, live: LiveSession, work: SessionWork) -> None:
        """Conclude a step in the thread of finals; until then the session takes no other step."""
        with self.lock:
            self._reading.add(live)
            live.job = None  # the final reads what it would have read
        self._finals.submit(lambda: self._read(live, work), urgent=True)

    def _read(self, live: LiveSession, work: SessionWork) -> None:
        began = time.monotonic()
        try:
            if live in self.sessions:  # else it was canceled
                self._conclude(live, work)
        finally:
            with self.lock:
                self.counts.read(time.monotonic() - began)
                self._reading.discard(live)
                live.active = time.monotonic()
                self.wake.notify()

    def _conclude(self, live: LiveSession, work: SessionWork) -> None:
        """Apply the cut of a step, and send its events; what is to be read ahead is read in the thread of finals."""

        def conclude() -> None:
            job = steps.conclude(self.recognizer, work)
            with self.lock:
                waiting, live.job = live.job, job or live.job
            if job and not waiting:  # else the one that waits in the queue does the newer job, which reads further
                self._finals.submit(lambda: self._read_ahead(live), urgent=False)

        self._guarded(live, conclude)
        self._emit_new(live, work)

    def _read_ahead(self, live: LiveSession) -> None:
        with self.lock:
            job, live.job = live.job, None
        if job and live in self.sessions:
            job()  # if it fails, the final text will be read in one go

    def _all_or_each(
        self,
        owners: dict[Session, LiveSession],
        work: list[SessionWork],
        act: Callable[[Recognizer, Sequence[SessionWork]], None],
    ) -> None:
        """Run `act` for all at once; if that fails, for each alone, from its state before."""
        before = [one.session.snapshot() for one in work]
        try:
            act(self.recognizer, work)
        except Exception:
            logger.exception("a step of %d sessions failed; each runs alone now", len(work))
            for one, state in zip(work, before, strict=True):
                one.session.restore(state)
                self._guarded(owners[one.session], lambda one=one: act(self.recognizer, [one]))

    def _guarded(self, session: LiveSession, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            logger.exception("a session failed")
            with self.lock:
                if session not in self.sessions:  # its listener had its last event
                    return
                self.counts.failed += 1
            self._emit(session, Failed(str(error) if isinstance(error, UserError) else "internal error"))
            with self.lock:
                self.forget(session)

    def _emit_new(self, live: LiveSession, work: SessionWork) -> None:
        with self.lock:
            self.counts.audio += len(work.samples) / self.recognizer.rate
            if live not in self.sessions:  # it failed, or was canceled: nothing follows
                return
        for event in live.session.events():
            self._emit(live, event)
        if work.cut is None and live.backlog > LATE:
            self._emit(live, Lag(round(live.backlog, 3)))
        if live.over:
            with self.lock:
                self.forget(live)

    def _emit(self, session: LiveSession, event: Event | Lag | Idle | Failed) -> None:
        try:
            session.listener(event)
        except Exception:
            logger.exception("a listener failed; its session is canceled")
            with self.lock:
                self.forget(session)
