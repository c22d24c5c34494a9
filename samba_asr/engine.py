"""Many live sessions on one model: sessions are rows, and each tick is one step for all that have something to say.

    engine = Engine(recognizer, max_sessions=50)
    session = engine.open(listener, rate=48000, latency_ms=640)      # from any thread; Full if there is no room
    session.accept(samples); session.flush("a"); session.finish()
    engine.close()

One thread of the engine's own runs the model.  A session is due when its audio fills a block of the encoder, so that none
is computed in pieces, or when it is asked to flush or to finish; what is due goes through the model in one step, at most
`SHARE` seconds of each session, so that a file that was sent at once does not keep live ones waiting.  A session's text is that
of `Recognizer.transcribe` at its latency, whoever shares its steps: rows do not know each other.

What becomes known is told to the session's listener, a function that is called in the engine's thread and must return at once:

    Partial(text, stable, until)   the open segment as it stands; of two that follow each other the first may be dropped
    Final(segment)          a segment that is over, never dropped
    Quiet(until)                   nothing was said since the last final; the first of two may be dropped
    Lag(seconds)                   so much of its audio waits for the model; the first of two may be dropped
    Flushed(name)           all audio from before `flush(name)` is told
    Idle(seconds)           no audio and no order came for so long: the engine finishes the session, and tells what it heard
    Failed(reason)          the session is over, by an error in it; the others go on
    Done(seconds)           the session is over, all is told
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from samba_asr.decoding.segmenter import Session as Search
from samba_asr.decoding.transcript import Segment
from samba_asr.errors import UserError
from samba_asr.models.encoder_stream import Framer
from samba_asr.recognizer import Phrases, Recognizer
from samba_asr.streaming import stack_rows, take_rows

logger = logging.getLogger(__name__)

SHARE = 2.0  # seconds of one session's audio in one tick, at most
LATE = 2.0  # seconds of a session's audio that may wait for the model before its client is told so
GATHER = 0.02  # seconds that the engine waits for others when one session is due


class Over(RuntimeError):
    """The session has ended, by its client or because the service goes down."""


class Full(UserError):
    """There is no room for another session now."""


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
    until: float  # seconds: all audio before is told


@dataclass(frozen=True)
class Lag:
    seconds: float


@dataclass(frozen=True)
class Flushed:
    name: str


@dataclass(frozen=True)
class Idle:
    seconds: float


@dataclass(frozen=True)
class Failed:
    reason: str


@dataclass(frozen=True)
class Done:
    seconds: float  # of audio heard


Event = Partial | Final | Quiet | Lag | Flushed | Idle | Failed | Done
Listener = Callable[[Event], None]


@dataclass
class Order:
    """What a session is asked to do behind the audio before it: a name to echo, None for the end."""

    name: str | None
    seconds: float = 0.0  # of audio since the order before


class LiveSession:
    """One client's session; its methods may be called from any thread."""

    def __init__(self, engine: Engine, listener: Listener, rate: int, block: int, search: Search):
        recognizer = engine.recognizer
        self.engine, self.listener, self.rate, self.block = engine, listener, rate, block
        self.hop = recognizer.hop(block)
        self._make_framer = lambda: Framer(rate, recognizer.rate, recognizer.model.acoustic.stride)
        self.framer = self._make_framer()
        self.search = search
        self.state = engine.first_state(block)
        self.queue: deque[np.ndarray | Order] = deque()  # whole encoder frames of samples, and orders between them
        self.waiting = 0  # samples in the queue, at the model's rate
        self.fed = 0  # encoder frames since the encoder began
        self.before = 0.0  # seconds heard before the encoder began
        self.shown = ""  # the last partial
        self.begin = 0.0  # frame where the open segment began when it was last told
        self.over = False
        self.active = time.monotonic()  # when audio or an order last came, or was last worked on

    @property
    def backlog(self) -> float:
        """Seconds of audio that wait for the model."""
        return self.waiting / self.engine.recognizer.rate

    def accept(self, samples: np.ndarray) -> None:
        """Hear more: float32 (s,) in [-1, 1], any length.  UserError, and nothing heard, if a sample is not finite; Over."""
        with self.engine.lock:
            self._check()
            self._add(self.framer.accept(samples))

    def flush(self, name: str = "") -> None:
        """What was heard so far becomes final, as if the audio ended here; then `Flushed(name)`."""
        with self.engine.lock:
            self._check()
            self._end(Order(name))
            self.framer = self._make_framer()

    def finish(self) -> None:
        """The end of the audio; once is enough, and the service may have come before the client."""
        with self.engine.lock:
            if self.framer is not None and not self.over:
                self._end(Order(None))
                self.framer = None

    def cancel(self) -> None:
        """Nobody listens any more: forget it."""
        with self.engine.lock:
            self.engine.forget(self)

    def _check(self) -> None:
        if self.over or self.framer is None:
            raise Over("this session is over")

    def _add(self, samples: np.ndarray) -> None:
        if len(samples):
            self.active = time.monotonic()
            self.queue.append(samples)
            self.waiting += len(samples)
            self.engine.wake.notify()

    def _end(self, order: Order) -> None:
        self.active = time.monotonic()
        self._add(self.framer.finish())
        order.seconds = self.framer.seconds
        self.queue.append(order)
        self.engine.wake.notify()

    # ---- in the engine's thread --------------------------------------------------------------------------------------

    def due(self) -> bool:
        """Whether there is a block's worth of audio, or an order."""
        stride = self.engine.recognizer.model.acoustic.stride
        beyond = self.fed - self.block  # the first block
        missing = self.hop - beyond % self.hop if beyond >= 0 else -beyond
        missing = min(missing, int(SHARE * self.engine.recognizer.rate) // stride)
        return self.waiting >= missing * stride or any(isinstance(item, Order) for item in self.queue)

    def take(self) -> tuple[np.ndarray, Order | None]:
        """The next audio, at most SHARE seconds, and the order behind it if it was reached."""
        room, parts = int(SHARE * self.engine.recognizer.rate), []
        stride = self.engine.recognizer.model.acoustic.stride
        room -= room % stride
        while self.queue and room and not isinstance(self.queue[0], Order):
            part = self.queue.popleft()
            if len(part) > room:
                self.queue.appendleft(part[room:])
                part = part[:room]
            parts.append(part)
            room -= len(part)
        samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        self.waiting -= len(samples)
        order = self.queue.popleft() if self.queue and isinstance(self.queue[0], Order) else None
        return samples, order


@dataclass
class Counts:
    """What the engine has done; for metrics."""

    opened: int = 0
    refused: int = 0
    failed: int = 0
    ticks: int = 0
    rows: int = 0  # summed over ticks
    audio: float = 0.0  # seconds through the model
    busy: float = 0.0  # seconds of ticks
    last: float = field(default_factory=time.monotonic)  # when the last tick ended


def check(recognizer: Recognizer) -> None:
    """UserError for a recogniser that an engine cannot run."""
    if recognizer.decode.vad:
        raise UserError(f"decode.vad={recognizer.decode.vad}: a service hears everything; leave it out")


class Engine:
    def __init__(
        self,
        recognizer: Recognizer,
        *,
        max_sessions: int = 64,
        idle_seconds: float = math.inf,
        counts: Counts | None = None,
    ):
        """idle_seconds: a session that brings no audio and no order for so long is finished, whatever transport holds it.
        counts: of an engine that this one takes over from.
        """
        if max_sessions < 1:
            raise UserError(f"an engine for {max_sessions} sessions: give 1 or more")
        check(recognizer)
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
        """A new session; Full if there are `max_sessions`, UserError for what the recogniser does not do."""
        block = self.recognizer.block(latency_ms)
        block = self.recognizer.model.config.max_block if block < 0 else block
        search = self.recognizer.segmenter.open(self.recognizer.hotwords(hotwords))
        with self.lock:
            if self.closing:
                raise Full("the service is going down")
            if len(self.sessions) >= self.max_sessions:
                self.counts.refused += 1
                raise Full(f"all {self.max_sessions} sessions are taken: try again later")
            session = LiveSession(self, listener, rate, block, search)
            self.sessions.append(session)
            self.counts.opened += 1
            return session

    def retire(self) -> None:
        """No new sessions; the engine ends when the last of those that there are is over."""
        with self.lock:
            self.closing = True
            self._ended = not self.sessions
            self.wake.notify()

    def close(self, grace: float = 10.0) -> None:
        """No new sessions; those that there are end here and are told all that was said, within `grace` seconds."""
        until = time.monotonic() + grace
        with self.lock:
            self.closing = True
            for session in self.sessions:
                session.finish()
        while self.sessions and time.monotonic() < until:
            time.sleep(0.02)
        with self.lock:
            for session in list(self.sessions):
                self._tell(session, Failed("the service is going down"))
                self.forget(session)
            self._ended = True
            self.wake.notify()
        self._thread.join(timeout=30)

    def forget(self, session: LiveSession) -> None:
        session.over = True
        session.queue.clear()
        session.waiting = 0
        if session in self.sessions:
            self.sessions.remove(session)
        if self.closing and not self.sessions:
            self._ended = True
            self.wake.notify()

    def first_state(self, block: int):
        weight = self.recognizer.model.ctc.linear.weight
        with torch.inference_mode():
            return self.recognizer.model.acoustic.init_state(1, block=block, device=weight.device, dtype=weight.dtype)

    # ---- the engine's thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self.lock:
                self._end_idle()
                while not self._ended and not any(s.due() for s in self.sessions):
                    self.wake.wait(timeout=0.5)
                    self.counts.last = time.monotonic()
                    self._end_idle()
                if self._ended:
                    return
            time.sleep(GATHER)
            with self.lock:
                work = [(s, *s.take()) for s in self.sessions if s.due()]
            began = time.monotonic()
            self._tick(work)
            for session, *_ in work:
                session.active = time.monotonic()
            self.counts.ticks += 1
            self.counts.rows += len(work)
            self.counts.busy += time.monotonic() - began
            self.counts.last = time.monotonic()

    def _end_idle(self) -> None:
        """Finish sessions that nobody feeds: a transport that failed to let go of one would keep its place for ever."""
        now = time.monotonic()
        for s in list(self.sessions):
            if now - s.active > self.idle_seconds and s.framer is not None and not s.due():
                self._tell(s, Idle(self.idle_seconds))
                s.finish()

    def _tick(self, work: list[tuple[LiveSession, np.ndarray, Order | None]]) -> None:
        """Sessions of one block size go through the model together; one that fails goes alone."""
        groups: dict[int, list] = {}
        for item in work:
            groups.setdefault(item[0].block, []).append(item)
        for group in groups.values():
            heard = {s: samples for s, samples, _ in group if len(samples)}
            self._all_or_each(list(heard), lambda some, heard=heard: self._step(some, [heard[s] for s in some]))
            self._all_or_each([s for s, _, order in group if order is not None and not s.over], self._drain)
            for s, _, order in group:  # each is told before the next one is finished
                if not s.over:
                    self._guarded(s, lambda s=s, order=order: self._tell_new(s, order))

    def _all_or_each(self, sessions: list[LiveSession], act: Callable[[list[LiveSession]], None]) -> None:
        """Do it for all at once; where that fails, for each by itself, from where it was before."""
        if not sessions:
            return
        before = [(s.state, s.search.copy()) for s in sessions]
        try:
            act(sessions)
        except Exception:
            logger.exception("a step of %d sessions failed; each is tried by itself", len(sessions))
            for s, (state, search) in zip(sessions, before, strict=True):
                s.state, s.search = state, search
                self._guarded(s, lambda s=s: act([s]))

    def _guarded(self, session: LiveSession, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            logger.exception("a session failed")
            self.counts.failed += 1
            self._tell(session, Failed(str(error) if isinstance(error, UserError) else "internal error"))
            with self.lock:
                self.forget(session)

    def _step(self, sessions: list[LiveSession], samples: list[np.ndarray]) -> None:
        """The model hears `samples` of each session."""
        model = self.recognizer.model
        weight = model.ctc.linear.weight
        audio = torch.zeros(len(samples), max(map(len, samples)))
        for row, x in enumerate(samples):
            audio[row, : len(x)] = torch.from_numpy(x)
        lengths = torch.tensor([len(x) for x in samples], device=weight.device)
        with torch.inference_mode():
            state = stack_rows([s.state for s in sessions])
            frames, n, state = model.acoustic.step(audio.to(weight.device, weight.dtype).unsqueeze(-1), lengths, state)
            if frames.shape[1]:
                self.recognizer.segmenter.step([s.search for s in sessions], frames, n)
        for row, (s, x) in enumerate(zip(sessions, samples, strict=True)):
            s.state = take_rows(state, [row])
            s.fed += len(x) // model.acoustic.stride
            self.counts.audio += len(x) / self.recognizer.rate

    def _drain(self, sessions: list[LiveSession]) -> None:
        """Their audio ends here: what the model still holds goes into the search."""
        with torch.inference_mode():
            frames, n = self.recognizer.model.acoustic.finish(stack_rows([s.state for s in sessions]))
            if frames.shape[1]:
                self.recognizer.segmenter.step([s.search for s in sessions], frames, n)

    def _tell_new(self, s: LiveSession, order: Order | None) -> None:
        """Tell what is new, and carry out the order."""
        segmenter = self.recognizer.segmenter
        if order is not None:
            with torch.inference_mode():
                segmenter.finish(s.search)
        for segment in s.search.segments:
            self._tell(s, Final(segment))
        if order is None and s.search.begin > s.begin and not s.search.segments:
            self._tell(s, Quiet(round(s.search.begin * self.recognizer.frame, 3)))
        s.begin = s.search.begin
        s.search.segments.clear()
        if order is None:
            text = segmenter.text(s.search)
            if text != s.shown:
                s.shown = text
                until = round(s.before + s.fed * self.recognizer.frame, 3)
                self._tell(s, Partial(text, segmenter.stable(s.search), until))
            if s.backlog > LATE:
                self._tell(s, Lag(round(s.backlog, 3)))
            return
        s.shown = ""
        s.before += order.seconds
        if order.name is None:
            self._tell(s, Done(s.before))
            with self.lock:
                self.forget(s)
            return
        s.state, s.fed = self.first_state(s.block), 0
        s.search.begin = s.begin = s.before / self.recognizer.frame
        self._tell(s, Flushed(order.name))

    def _tell(self, session: LiveSession, event: Event) -> None:
        try:
            session.listener(event)
        except Exception:
            logger.exception("a listener failed; its session is forgotten")
            with self.lock:
                self.forget(session)
