"""Many live sessions on one model, in one thread: queue, fairness and failures; `samba_asr.session` does the work.

    engine = Engine(recognizer, max_sessions=50)
    session = engine.open(listener, rate=48000, latency_ms=640)      # from any thread; Full if there is no room
    session.accept(samples); session.flush("a"); session.finish()
    engine.close()

Each tick is one step of the model for all sessions that are due, at most `SHARE` seconds of each, so that a file that was sent
at once does not keep live ones waiting.  A session's events go to its listener, a function that is called in the engine's
thread and must return at once.  Beside the events of `samba_asr.session` there are

    Lag(seconds)            so much of its audio waits for the model; the first of two may be dropped
    Idle(seconds)           no audio and no order came for so long: the engine ends the session, and its last events follow
    Failed(reason)          the session is over, by an error in it; the others go on

Of two `Partial` or `Quiet` that follow each other the first may be dropped, too; a `Final` never.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from samba_asr import session as sessions
from samba_asr.errors import UserError
from samba_asr.recognizer import Phrases, Recognizer
from samba_asr.session import Done, Event, Final, Flushed, Over, Partial, Quiet, Session, Work

__all__ = [  # those of samba_asr.session too: a client of the engine needs no other module
    "Counts",
    "Done",
    "Engine",
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
]

logger = logging.getLogger(__name__)

SHARE = 2.0  # seconds of one session's audio in one tick, at most
LATE = 2.0  # seconds of a session's audio that may wait for the model before its client is told so
GATHER = 0.02  # seconds that the engine waits for others when one session is due


class Full(UserError):
    """There is no room for another session now."""


@dataclass(frozen=True)
class Lag:
    seconds: float


@dataclass(frozen=True)
class Idle:
    seconds: float


@dataclass(frozen=True)
class Failed:
    reason: str


News = Event | Lag | Idle | Failed
"""What a live session emits."""
Listener = Callable[[News], None]


@dataclass
class Counts:
    """Totals of an engine, for metrics."""

    opened: int = 0
    refused: int = 0
    failed: int = 0
    ticks: int = 0
    rows: int = 0  # summed over ticks
    audio: float = 0.0  # seconds through the model
    busy: float = 0.0  # seconds of ticks
    last: float = field(default_factory=time.monotonic)  # when the last tick ended

    def stepped(self, seconds: float, rows: int) -> None:
        """A tick of so many sessions has ended.  Called in the engine's thread."""
        self.ticks += 1
        self.rows += rows
        self.busy += seconds
        self.last = time.monotonic()


class LiveSession:
    """One client's session in an engine; its methods may be called from any thread."""

    def __init__(self, engine: Engine, listener: Listener, session: Session):
        self.engine, self.listener, self.session = engine, listener, session
        self.active = time.monotonic()  # when audio or an order last came, or was last worked on

    @property
    def over(self) -> bool:
        """Whether it has ended, or was forgotten."""
        return self.session.over

    @property
    def backlog(self) -> float:
        """Seconds of audio that wait for the model."""
        return self.session.backlog

    def accept(self, samples: np.ndarray) -> None:
        """The next chunk: float32 (s,) in [-1, 1], any length.  UserError, and nothing taken, if a sample is not finite; Over."""
        with self.engine.lock:
            self.session.feed(samples)
            self._touch()

    def flush(self, name: str = "") -> None:
        """Make all audio so far final, as if it ended here; `Flushed(name)` follows."""
        with self.engine.lock:
            self.session.flush(name)
            self._touch()

    def finish(self) -> None:
        """The end of the audio; once is enough, and the service may have come before the client."""
        with self.engine.lock:
            self.session.end()
            self._touch()

    def _touch(self) -> None:
        self.active = time.monotonic()
        self.engine.wake.notify()

    def cancel(self) -> None:
        """Forget it: nobody listens any more."""
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
        counts: Counts | None = None,
    ):
        """idle_seconds: a session that brings no audio and no order for so long is ended, whatever transport holds it.

        counts: of an engine that this one takes over from.
        """
        if max_sessions < 1:
            raise UserError(f"an engine for {max_sessions} sessions: give 1 or more")
        self.recognizer, self.max_sessions, self.idle_seconds = recognizer, max_sessions, idle_seconds
        self.lock = threading.RLock()
        self.wake = threading.Condition(self.lock)
        self.sessions: list[LiveSession] = []
        self.counts = counts or Counts()
        self.closing = self._ended = False
        self._thread = threading.Thread(target=self._run, name="samba_asr-engine", daemon=True)
        self._thread.start()

    def open(
        self, listener: Listener, rate: int, *, latency_ms: float | None = None, hotwords: Phrases = None
    ) -> LiveSession:
        """A new session; Full if there are `max_sessions`, UserError for what the recognizer does not do."""
        session = LiveSession(self, listener, self.recognizer.session(rate, latency_ms=latency_ms, hotwords=hotwords))
        with self.lock:
            if self.closing:
                raise Full("the service is going down")
            if len(self.sessions) >= self.max_sessions:
                self.counts.refused += 1
                raise Full(f"all {self.max_sessions} sessions are taken: try again later")
            self.sessions.append(session)
            self.counts.opened += 1
            return session

    def retire(self) -> None:
        """Take no new sessions; the engine ends when its last session is over."""
        with self.lock:
            self.closing = True
            self._ended = not self.sessions
            self.wake.notify()

    def close(self, grace: float = 10.0) -> None:
        """Take no new sessions, and end the active ones: they receive their last results within `grace` seconds."""
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

    def forget(self, session: LiveSession) -> None:
        """End a session at once; what waits is dropped."""
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
                while not self._ended and not any(s.session.due(SHARE) for s in self.sessions):
                    self.wake.wait(timeout=0.5)
                    self.counts.last = time.monotonic()
                    self._end_idle()
                if self._ended:
                    return
            time.sleep(GATHER)
            with self.lock:
                work = {s.session: (s, s.session.take(SHARE)) for s in self.sessions if s.session.due(SHARE)}
            began = time.monotonic()
            self._tick(list(work.values()))
            for session, _ in work.values():
                session.active = time.monotonic()
            self.counts.stepped(time.monotonic() - began, len(work))

    def _end_idle(self) -> None:
        """End sessions that nobody feeds: a transport that failed to let go of one would keep its place for ever."""
        now = time.monotonic()
        for live in list(self.sessions):
            if now - live.active > self.idle_seconds and not live.session.ended and not live.session.due(SHARE):
                self._emit(live, Idle(self.idle_seconds))
                live.finish()

    def _tick(self, due: Sequence[tuple[LiveSession, Work]]) -> None:
        """One step of `due` together; a session that fails is tried alone, and ends there if it fails again."""
        owners = {work.session: live for live, work in due}
        for group in sessions.by_block(work for _, work in due):
            self._all_or_each(owners, group, sessions.step)
            self._all_or_each(owners, [w for w in group if not w.session.over], sessions.drain)
            for work in group:  # each receives its events before the next one is concluded: ends take time
                if not work.session.over:
                    self._guarded(owners[work.session], lambda work=work: sessions.conclude(self.recognizer, work))
                    self._emit_new(owners[work.session], work)

    def _all_or_each(
        self, owners: dict[Session, LiveSession], work: list[Work], act: Callable[[Recognizer, Sequence[Work]], None]
    ) -> None:
        """Do it for all at once; where that fails, for each by itself, from where it was before."""
        before = [one.session.snapshot() for one in work]
        try:
            act(self.recognizer, work)
        except Exception:
            logger.exception("a step of %d sessions failed; each is tried by itself", len(work))
            for one, state in zip(work, before, strict=True):
                one.session.restore(state)
                self._guarded(owners[one.session], lambda one=one: act(self.recognizer, [one]))

    def _guarded(self, session: LiveSession, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            logger.exception("a session failed")
            self.counts.failed += 1
            self._emit(session, Failed(str(error) if isinstance(error, UserError) else "internal error"))
            with self.lock:
                self.forget(session)

    def _emit_new(self, live: LiveSession, work: Work) -> None:
        self.counts.audio += len(work.samples) / self.recognizer.rate
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
            logger.exception("a listener failed; its session is forgotten")
            with self.lock:
                self.forget(session)
