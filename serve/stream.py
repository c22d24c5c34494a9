"""`WS /v1/stream`: live audio in, words out; the messages are those of `samba_asr.serve.protocol`."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from samba_asr.engine import (
    Done,
    EagerEnd,
    Failed,
    Final,
    Flushed,
    Full,
    Idle,
    Lag,
    LiveSession,
    News,
    Over,
    Partial,
    Quiet,
    SpeechStarted,
    TurnEnded,
    TurnResumed,
)
from samba_asr.errors import UserError
from samba_asr.recognizer import Phrases
from samba_asr.serve import protocol
from samba_asr.serve.lobby import IdleTimer
from samba_asr.serve.metrics import Timing
from samba_asr.serve.models import Models
from samba_asr.serve.settings import Settings

logger = logging.getLogger(__name__)

router = APIRouter()

IDLE, BUDGET = 4408, 4413  # close codes of our own


class Outbox:
    """Messages to send to a client.

    For a slow reader, of successive messages in `LATEST` only the newest of each type is kept; the words that a `quiet` reports
    as withheld are added to the next.  No other message is dropped.
    """

    LATEST = ("partial", "lag", "quiet")

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop, self._messages = loop, deque()
        self._filled = asyncio.Event()

    def put(self, message: dict[str, Any]) -> None:
        """Queue a message, from any thread."""
        self._loop.call_soon_threadsafe(self._put, message)

    def _put(self, message: dict[str, Any]) -> None:
        if message["type"] in self.LATEST:
            for n, older in enumerate(reversed(self._messages), 1):
                if older["type"] not in self.LATEST:
                    break
                if older["type"] == message["type"]:
                    if message["type"] == "quiet":
                        message = {**message, "withheld": older["withheld"] + message["withheld"]}
                    del self._messages[-n]
                    break
        self._messages.append(message)
        self._filled.set()

    async def get(self) -> dict[str, Any]:
        while not self._messages:
            self._filled.clear()
            await self._filled.wait()
        return self._messages.popleft()


class BoundedSession:
    """A client's session in the engine, with limits on its audio; `on_event` receives its events."""

    KIND = ""  # kind of client, for the log

    def __init__(self, models: Models, settings: Settings):
        self.models, self.settings = models, settings
        self.live: LiveSession | None = None
        self.id = uuid.uuid4().hex[:12]
        self.seconds = 0.0
        self.outcome = "left"  # until it ends otherwise

    @property
    def opened(self) -> LiveSession:
        """The live session, after `open`."""
        assert self.live is not None
        return self.live

    @property
    def unusable(self) -> dict[str, str]:
        """Hotwords of the session that its model cannot write, and the reasons."""
        hotwords = self.opened.session.search.hotwords
        return hotwords.unusable if hotwords else {}

    def on_event(self, event: News) -> None:
        """Handle an event; called in the engine's thread."""
        raise NotImplementedError

    def open(self, asked: protocol.AudioFormat, hotwords: Phrases = None) -> float:
        """Open the session; return its latency in ms.  Full, or another UserError, if that is impossible."""
        latency = asked.latency_ms or self.settings.latency_ms
        hotwords = asked.hotwords if isinstance(asked, protocol.Start) else hotwords
        self.model = asked.model or self.models.names[0]
        self.timing = Timing(self.models.metrics, self.model)
        self.live = self.models.open(
            self._on_timed_event,
            asked.sample_rate,
            name=asked.model,
            latency_ms=latency,
            hotwords=hotwords,
            text=asked.text,
            digits=asked.itn,
            turns=asked.rules,
        )
        self.began = time.monotonic()
        self.rate, self.samples = asked.sample_rate, protocol.Samples(asked.encoding)
        return latency

    async def audio(self, data: bytes) -> None:
        """Pass audio to the session.  UserError for samples that are not finite, and beyond the limit of a session."""
        samples = self.samples.read(data)
        room = round((self.settings.max_session_seconds - self.seconds) * self.rate)
        seconds = self.seconds + min(len(samples), room) / self.rate
        if len(samples):
            self.timing.received(seconds)
        self.opened.accept(samples[:room])
        self.seconds = seconds
        if len(samples) > room:
            raise self._too_long()
        # Uvicorn would continue to read.  A client that sends faster than the model runs must wait here.
        while self.opened.backlog > self.settings.max_backlog_seconds and not self.opened.over:
            await asyncio.sleep(0.05)

    def gap(self, seconds: float) -> None:
        """Leave out audio that is missing.  UserError beyond the limit of a session."""
        if self.seconds + seconds > self.settings.max_session_seconds:
            raise self._too_long()
        self.opened.gap(seconds)
        self.seconds += seconds

    def _too_long(self) -> TooLong:
        return TooLong(f"a session is at most {self.settings.max_session_seconds:g} s of audio")

    def flush(self, name: str = "") -> None:
        """Finalize the audio so far."""
        self.timing.ordered()
        self.opened.flush(name)

    def finish(self) -> None:
        """End the audio."""
        self.timing.ordered()
        self.opened.finish()

    def _on_timed_event(self, event: News) -> None:
        self.timing.event(event, self.live)
        self.on_event(event)

    def close(self) -> None:
        """End the session at once, and log it."""
        live, self.live = self.live, None  # the live session refers to this one, and a cycle would outlive both
        if live is None:
            return
        live.cancel()
        fields = {
            "session": self.id,
            "kind": self.KIND,
            "model": self.model,
            "outcome": self.outcome,
            "audio_seconds": round(self.seconds, 3),
            "seconds": round(time.monotonic() - self.began, 3),
        }
        logger.info("session over", extra={"fields": fields})


class LoopSession(BoundedSession):
    """A session whose events are handled in the event loop, and which knows why it ended."""

    def __init__(self, models: Models, settings: Settings):
        super().__init__(models, settings)
        self._loop = asyncio.get_running_loop()
        self.over = asyncio.Event()
        self.end = 1001, "the service is going down"  # close code and reason, until the engine reports another

    def on_event(self, event: News) -> None:
        self._loop.call_soon_threadsafe(self.handle, event)

    def handle(self, event: News) -> None:
        """Handle an event, in the event loop."""
        raise NotImplementedError

    def ended(self, event: Idle | Failed | Done) -> None:
        """Note why the session ends, and that it is over."""
        match event:
            case Idle(seconds):
                self.end = IDLE, f"no audio and no command for {seconds:g} s"
                return  # the engine reports its end next
            case Failed(reason):
                self.outcome, self.end = "failed", (1011, reason)
            case Done():
                self.outcome = "done"
        self.over.set()


class MessageSession(BoundedSession):
    """A session whose events become messages of `samba_asr.serve.protocol`."""

    def __init__(self, models: Models, settings: Settings):
        super().__init__(models, settings)
        self.out = Outbox(asyncio.get_running_loop())
        self.words, self.alternatives, self.segments = True, 0, 0
        self._fault: dict[str, Any] | None = None
        self.code = 1001  # close code if the engine ends the session because the service shuts down

    def on_event(self, event: News) -> None:
        match event:
            case Partial():
                self.out.put(protocol.partial(event, self.segments))
            case Final(segment):
                self.out.put(protocol.final(segment, self.segments, self.words, self.alternatives))
                self.segments += 1
            case SpeechStarted() | EagerEnd() | TurnResumed() | TurnEnded():
                self.out.put(protocol.turn(event, self.segments, self.words))
            case Quiet(until, withheld):
                self.out.put({"type": "quiet", "until": until, "withheld": withheld})
            case Lag(seconds):
                self.out.put({"type": "lag", "seconds": seconds})
            case Flushed(name):
                self.out.put({"type": "flushed", "id": name})
            case Idle():
                self.report_idle()
            case Failed(reason):
                self.outcome = "failed"
                self.out.put(protocol.error("failed", reason))
            case Done(seconds):
                self.outcome = "done" if self.outcome == "left" else self.outcome
                self.done(seconds)

    def report_idle(self) -> None:
        """Tell a client once that it is idle; both the engine and the transport may notice it."""
        if self.code != IDLE:
            self.outcome, self.code = "idle", IDLE
            self.fault("idle", f"no audio and no command for {self.settings.idle_seconds:g} s")

    def fault(self, code: str, message: str, retry_after: int | None = None) -> None:
        """Set the error that ends the session.  It is sent last, so a client that stops at an error has all earlier text."""
        self._fault = protocol.error(code, message, retry_after)

    def done(self, seconds: float = 0.0) -> None:
        """Send the last messages: the error, if there is one, and `done`."""
        if self._fault is not None:
            self.out.put(self._fault)
        self.out.put({"type": "done", "seconds": round(seconds, 3)})

    def start(self, asked: protocol.AudioFormat) -> None:
        """Open the session, and send `ready`."""
        self.words, self.alternatives = asked.words, asked.alternatives
        latency = self.open(asked)
        self.out.put(
            {
                "type": "ready",
                "session": self.id,
                "model": self.model,
                "sample_rate": asked.sample_rate,
                "encoding": asked.encoding,
                "latency_ms": latency,
                "unusable": self.unusable,
            }
        )


class TooLong(UserError):
    """Error: more audio than a session may have."""


class Connection(MessageSession):
    """A session over a WebSocket."""

    KIND = "stream"

    def __init__(self, socket: WebSocket, models: Models, settings: Settings):
        super().__init__(models, settings)
        self.reason = ""
        self.socket, self.idle_timer = socket, IdleTimer(settings.idle_seconds, socket.app.state.lobby)

    async def listen(self) -> int:
        """Read messages to the end; return the close code: of the client's error, else 1000."""
        with self.idle_timer:
            return await self._listen()

    async def _listen(self) -> int:
        while True:
            try:
                message = await self.idle_timer.receive(self.socket)
            except TimeoutError:
                self.report_idle()
                return IDLE
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code") or 1006)
            try:
                if (data := message.get("bytes")) is not None:
                    if self.live is None:
                        self.start(protocol.Start())
                    await self.audio(data)
                    if data:
                        self.idle_timer.renew(session=True)
                elif self.command(protocol.parse(message.get("text") or "")):
                    return 1000
            except Full as error:
                self.fault("busy", str(error), self.settings.retry_seconds)
                return 1013
            except TooLong as error:
                self.fault("limit", str(error))
                return BUDGET
            except Over:  # the service shuts down, or the session failed; the client receives its last messages
                return 1001
            except UserError as error:
                self.fault("bad_request", str(error))
                return 1008

    def command(self, message) -> bool:
        """Carry out a message; return True for the last one."""
        match message:
            case protocol.Start() if self.live is not None:
                raise UserError("start comes once, before the first audio")
            case protocol.Start():
                self.start(message)
                self.idle_timer.renew(session=True)
            case protocol.Ping():
                self.out.put({"type": "pong"})
            case protocol.Gap() | protocol.Flush():
                if self.live is None:
                    self.start(protocol.Start())
                self.gap(message.seconds) if isinstance(message, protocol.Gap) else self.flush(message.id)
                self.idle_timer.renew(session=True)
            case protocol.Stop():
                return True
        return False

    async def send_rest(self, code: int) -> None:
        """Send all remaining messages, and close."""
        while True:
            message = await self.out.get()
            await self.send(message)
            if message["type"] == "done":
                return await close(self.socket, code, self.reason)
            if message["type"] == "error" and message["code"] == "failed":
                return await close(self.socket, 1011, self.reason)

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message; an error also becomes the reason of the close frame.  TimeoutError if the client does not read."""
        if message["type"] == "error":
            self.reason = message["message"]
        await asyncio.wait_for(self.socket.send_json(message), self.settings.idle_seconds)


async def close(socket: WebSocket, code: int, reason: str) -> None:
    """Close a WebSocket, with as much of the reason as fits a close frame."""
    await socket.close(code, reason.encode()[:123].decode(errors="ignore"))


@router.websocket("/v1/stream")
async def stream(socket: WebSocket) -> None:
    settings: Settings = socket.app.state.settings
    await socket.accept()
    client = Connection(socket, socket.app.state.models, settings)
    listening = asyncio.create_task(client.listen())
    listening.add_done_callback(lambda task: task.cancelled() or task.exception())  # a disconnect is not an error
    sending = asyncio.create_task(_send_all(client, listening))
    try:
        await sending
    except (WebSocketDisconnect, TimeoutError, RuntimeError, OSError):
        pass  # the client has disconnected, or does not read
    finally:
        listening.cancel()
        client.close()


async def _send_all(client: Connection, listening: asyncio.Task[int]) -> None:
    """Send messages while the client is read, then the remaining ones."""
    getting: asyncio.Task | None = None
    while not listening.done():
        getting = getting or asyncio.create_task(client.out.get())
        await asyncio.wait({listening, getting}, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            message, getting = getting.result(), None
            await client.send(message)
            if message["type"] == "error" and message["code"] == "failed":
                return await close(client.socket, 1011, client.reason)
            if message["type"] == "done":  # without a stop
                return await close(client.socket, client.code, client.reason or "the service is going down")
    if getting is not None:
        getting.cancel()
    code = listening.result()  # raises if the client has disconnected
    if client.live is None or client.live.over:
        client.done()
    else:
        client.finish()
    await client.send_rest(code)
