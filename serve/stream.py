"""`WS /v1/stream`: a microphone in, words out; see `samba_asr.serve.protocol`."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from samba_asr.engine import Done, Failed, Final, Flushed, Full, Idle, Lag, LiveSession, News, Over, Partial, Quiet
from samba_asr.errors import UserError
from samba_asr.recognizer import Phrases
from samba_asr.serve import protocol
from samba_asr.serve.lobby import Patience
from samba_asr.serve.metrics import Timing
from samba_asr.serve.models import Models
from samba_asr.serve.settings import Settings

logger = logging.getLogger(__name__)

router = APIRouter()

IDLE, BUDGET = 4408, 4413  # close codes of our own


class Outbox:
    """What the client is owed.  For a slow reader, of messages in `LATEST` that follow each other only the newest of each type
    is kept; nothing else is dropped."""

    LATEST = ("partial", "lag", "quiet")

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop, self._messages = loop, deque()
        self._filled = asyncio.Event()

    def put(self, message: dict[str, Any]) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._put, message)

    def _put(self, message: dict[str, Any]) -> None:
        if message["type"] in self.LATEST:
            for n, older in enumerate(reversed(self._messages), 1):
                if older["type"] not in self.LATEST:
                    break
                if older["type"] == message["type"]:
                    del self._messages[-n]
                    break
        self._messages.append(message)
        self._filled.set()

    async def get(self) -> dict[str, Any]:
        while not self._messages:
            self._filled.clear()
            await self._filled.wait()
        return self._messages.popleft()


class Audio:
    """A client's audio on its way to a session of the engine, within bounds; `hear` is told what comes of it."""

    KIND = ""  # of client, for the log

    def __init__(self, models: Models, settings: Settings):
        self.models, self.settings = models, settings
        self.live: LiveSession | None = None
        self.id = uuid.uuid4().hex[:12]
        self.seconds = 0.0
        self.outcome = "left"  # unless it ends otherwise

    @property
    def opened(self) -> LiveSession:
        """The session, after `open`."""
        assert self.live is not None
        return self.live

    def hear(self, event: News) -> None:
        """Called in the engine's thread."""
        raise NotImplementedError

    def open(self, asked: protocol.Audio, hotwords: Phrases = None) -> float:
        """The session's latency in ms.  UserError (Full among them) if that cannot be."""
        latency = asked.latency_ms or self.settings.latency_ms
        hotwords = asked.hotwords if isinstance(asked, protocol.Start) else hotwords
        self.model = asked.model or self.models.names[0]
        self.timing = Timing(self.models.metrics, self.model)
        self.live = self.models.open(
            self._hear_timed, asked.sample_rate, name=asked.model, latency_ms=latency, hotwords=hotwords
        )
        self.began = time.monotonic()
        self.rate, self.samples = asked.sample_rate, protocol.Samples(asked.encoding)
        return latency

    async def audio(self, data: bytes) -> None:
        """Hear it.  UserError for samples that are none, and for more than a session may hold."""
        samples = self.samples.read(data)
        room = round((self.settings.max_session_seconds - self.seconds) * self.rate)
        seconds = self.seconds + min(len(samples), room) / self.rate
        if len(samples):
            self.timing.received(seconds)
        self.opened.accept(samples[:room])
        self.seconds = seconds
        if len(samples) > room:
            raise TooLong(f"a session is at most {self.settings.max_session_seconds:g} s of audio")
        # Uvicorn would go on reading; a client that sends faster than the model hears is made to wait here.
        while self.opened.backlog > self.settings.max_backlog_seconds and not self.opened.over:
            await asyncio.sleep(0.05)

    def flush(self, name: str = "") -> None:
        """Ask for the text of what has come."""
        self.timing.ordered()
        self.opened.flush(name)

    def finish(self) -> None:
        """The audio is over."""
        self.timing.ordered()
        self.opened.finish()

    def _hear_timed(self, event: News) -> None:
        self.timing.event(event, self.live)
        self.hear(event)

    def close(self) -> None:
        """Nobody listens any more."""
        live, self.live = self.live, None  # which knows us: a circle would outlive the session
        if live is None:
            return
        live.cancel()
        told = {
            "session": self.id,
            "kind": self.KIND,
            "model": self.model,
            "outcome": self.outcome,
            "audio_seconds": round(self.seconds, 3),
            "seconds": round(time.monotonic() - self.began, 3),
        }
        logger.info("session over", extra={"fields": told})


class Session(Audio):
    """A session whose events become messages of our protocol."""

    def __init__(self, models: Models, settings: Settings):
        super().__init__(models, settings)
        self.out = Outbox(asyncio.get_running_loop())
        self.words, self.segments = True, 0
        self._fault: dict[str, Any] | None = None
        self.code = 1001  # to close with when the engine ends the session unasked: the service goes down

    def hear(self, event: News) -> None:
        match event:
            case Partial(text, stable, until):
                self.out.put(
                    {"type": "partial", "segment": self.segments, "text": text, "stable": stable, "until": until}
                )
            case Final(segment):
                self.out.put(protocol.final(segment, self.segments, self.words))
                self.segments += 1
            case Quiet(until):
                self.out.put({"type": "quiet", "until": until})
            case Lag(seconds):
                self.out.put({"type": "lag", "seconds": seconds})
            case Flushed(name):
                self.out.put({"type": "flushed", "id": name})
            case Idle():
                self.tell_idle()
            case Failed(reason):
                self.outcome = "failed"
                self.out.put(protocol.error("failed", reason))
            case Done(seconds):
                self.outcome = "done" if self.outcome == "left" else self.outcome
                self.done(seconds)

    def tell_idle(self) -> None:
        """Tell a client that it brings nothing, once: both the engine and the transport see it."""
        if self.code != IDLE:
            self.outcome, self.code = "idle", IDLE
            self.fault("idle", f"no audio and no order for {self.settings.idle_seconds:g} s")

    def fault(self, code: str, message: str, retry_after: int | None = None) -> None:
        """Say why the session ends, but last: a client that stops at an error has all that was heard before."""
        self._fault = protocol.error(code, message, retry_after)

    def done(self, seconds: float = 0.0) -> None:
        """All is said, but for what is at fault."""
        if self._fault is not None:
            self.out.put(self._fault)
        self.out.put({"type": "done", "seconds": round(seconds, 3)})

    def start(self, asked: protocol.Audio) -> None:
        """Open it, and say so."""
        self.words = asked.words
        latency = self.open(asked)
        self.out.put(
            {
                "type": "ready",
                "session": self.id,
                "model": self.model,
                "sample_rate": asked.sample_rate,
                "encoding": asked.encoding,
                "latency_ms": latency,
            }
        )


class TooLong(UserError):
    """More audio than a session may hold."""


class Client(Session):
    """A session over a WebSocket."""

    KIND = "stream"

    def __init__(self, socket: WebSocket, models: Models, settings: Settings):
        super().__init__(models, settings)
        self.reason = ""
        self.socket, self.patience = socket, Patience(settings.idle_seconds, socket.app.state.lobby)

    async def listen(self) -> int:
        """Read messages to the end; the code to close with where the client is at fault, else 1000."""
        with self.patience:
            return await self._listen()

    async def _listen(self) -> int:
        while True:
            try:
                message = await self.patience.receive(self.socket)
            except TimeoutError:
                self.tell_idle()
                return IDLE
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code") or 1006)
            try:
                if (data := message.get("bytes")) is not None:
                    if self.live is None:
                        self.start(protocol.Start())
                    await self.audio(data)
                    if data:
                        self.patience.renew(session=True)
                elif self.command(protocol.parse(message.get("text") or "")):
                    return 1000
            except Full as error:
                self.fault("busy", str(error), self.settings.retry_seconds)
                return 1013
            except TooLong as error:
                self.fault("limit", str(error))
                return BUDGET
            except Over:  # the service goes down, or the session failed: the client is told what it is owed
                return 1001
            except UserError as error:
                self.fault("bad_request", str(error))
                return 1008

    def command(self, message) -> bool:
        """Carry it out; True if it was the last."""
        match message:
            case protocol.Start() if self.live is not None:
                raise UserError("start comes once, before the first audio")
            case protocol.Start():
                self.start(message)
                self.patience.renew(session=True)
            case protocol.Ping():
                self.out.put({"type": "pong"})
            case protocol.Flush():
                if self.live is None:
                    self.start(protocol.Start())
                self.flush(message.id)
                self.patience.renew(session=True)
            case protocol.Stop():
                return True
        return False

    async def speak(self, code: int) -> None:
        """Send what the client is owed to the end, and close."""
        while True:
            message = await self.out.get()
            await self.send(message)
            if message["type"] == "done":
                return await close(self.socket, code, self.reason)
            if message["type"] == "error" and message["code"] == "failed":
                return await close(self.socket, 1011, self.reason)

    async def send(self, message: dict[str, Any]) -> None:
        """Send it; an error is the reason that stands in the close frame.  TimeoutError for a client that does not read."""
        if message["type"] == "error":
            self.reason = message["message"]
        await asyncio.wait_for(self.socket.send_json(message), self.settings.idle_seconds)


async def close(socket: WebSocket, code: int, reason: str) -> None:
    """Close it, with as much of the reason as a close frame holds."""
    await socket.close(code, reason.encode()[:123].decode(errors="ignore"))


@router.websocket("/v1/stream")
async def stream(socket: WebSocket) -> None:
    settings: Settings = socket.app.state.settings
    await socket.accept()
    client = Client(socket, socket.app.state.models, settings)
    listening = asyncio.create_task(client.listen())
    listening.add_done_callback(
        lambda task: task.cancelled() or task.exception()
    )  # that the client is gone is no error
    speaking = asyncio.create_task(_until_over(client, listening))
    try:
        await speaking
    except (WebSocketDisconnect, TimeoutError, RuntimeError, OSError):
        pass  # the client is gone, or reads nothing
    finally:
        listening.cancel()
        client.close()


async def _until_over(client: Client, listening: asyncio.Task[int]) -> None:
    """Send while the client is heard; then what it is still owed."""
    getting: asyncio.Task | None = None
    while not listening.done():
        getting = getting or asyncio.create_task(client.out.get())
        await asyncio.wait({listening, getting}, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            message, getting = getting.result(), None
            await client.send(message)
            if message["type"] == "error" and message["code"] == "failed":
                return await close(client.socket, 1011, client.reason)
            if message["type"] == "done":  # not asked for
                return await close(client.socket, client.code, client.reason or "the service is going down")
    if getting is not None:
        getting.cancel()
    code = listening.result()  # raises if the client is gone
    if client.live is None or client.live.over:
        client.done()
    else:
        client.finish()
    await client.speak(code)
