"""The Wyoming protocol, by which Home Assistant talks to speech services: `samba-asr serve --wyoming 10300`, a TCP port.

up     describe | ping | transcribe {name, language, transcript_names, transcript_terms}, optional
       audio-start {rate, width, channels} | audio-chunk | audio-stop
down   info | pong | transcript-start | transcript-chunk {text}, for each segment | transcript {text} | transcript-stop
       error {text, code}

The chunks, joined, are the transcript, in the written form.  `transcript_names` and `transcript_terms` are hotwords.  A
connection may transcribe many times, one after another.  After an error it is closed, because Home Assistant waits for a
transcript until then; audio from before the error still gives its transcript.  Events of other types are ignored.  The
protocol has no tokens.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

import samba_asr
from samba_asr.engine import Done, Failed, Final, Full, Idle, News, Over
from samba_asr.errors import UserError, missing_extra
from samba_asr.serve import protocol
from samba_asr.serve.access import LINGER
from samba_asr.serve.connections import Connections
from samba_asr.serve.lobby import IdleTimer
from samba_asr.serve.models import Models
from samba_asr.serve.settings import Settings
from samba_asr.serve.stream import LoopSession, TooLong

if TYPE_CHECKING:
    from wyoming.event import Event

logger = logging.getLogger(__name__)

HEAD_BYTES = 1 << 16  # of an event's first line, at most


class Head(BaseModel):
    """The first line of an event."""

    type: str = Field(max_length=100)
    data: dict[str, Any] = Field(default_factory=dict)
    data_length: int = Field(default=0, ge=0)
    payload_length: int = Field(default=0, ge=0)


class Asked(BaseModel):
    """Supported fields of `transcribe`."""

    name: str | None = Field(default=None, max_length=100)
    language: str | None = Field(default=None, max_length=20, pattern="^(?i:en)")
    transcript_names: list[protocol.Phrase] | None = Field(default=None, max_length=1000)
    transcript_terms: list[protocol.Phrase] | None = Field(default=None, max_length=1000)

    @property
    def hotwords(self) -> list[str] | None:
        return [*(self.transcript_names or ()), *(self.transcript_terms or ())] or None


class Format(BaseModel):
    """Format of audio, in `audio-start` and in each chunk."""

    rate: int = Field(ge=4000, le=192000)
    width: Literal[1, 2, 3, 4]  # bytes of a sample
    channels: Literal[1, 2]


DATA = TypeAdapter(dict[str, Any])


async def read_event(reader: asyncio.StreamReader, most: int) -> Event | None:
    """Read the next event; None at the end.  UserError if it is malformed, or has more than `most` bytes after its first line.

    The package's own reader has no limit.
    """
    from wyoming.event import Event

    try:
        line = await reader.readline()
        if not line.endswith(b"\n"):
            return None
        head = Head.model_validate_json(line)
        if head.data_length + head.payload_length > most:
            raise UserError(f"an event of {head.data_length + head.payload_length} bytes: at most {most}")
        more = DATA.validate_json(await reader.readexactly(head.data_length)) if head.data_length else {}
        payload = await reader.readexactly(head.payload_length)
    except asyncio.IncompleteReadError:
        return None
    except UserError:
        raise
    except ValueError:  # pydantic's too, and that of a line that is too long
        raise UserError(f"an event begins with a line of JSON with a type, of at most {HEAD_BYTES} bytes") from None
    return Event(head.type, {**head.data, **more}, payload)


class WyomingSession(LoopSession):
    """One transcription, which sends its text as it comes."""

    KIND = "wyoming"

    def __init__(self, models: Models, settings: Settings, send: Callable[[Any], None]):
        """send: queues an event of the package for the client."""
        super().__init__(models, settings)
        self._send, self._text = send, ""

    def handle(self, event: News) -> None:
        from wyoming.asr import Transcript, TranscriptChunk, TranscriptStop

        match event:
            case Final(segment):
                chunk = f" {segment.readable}" if self._text else segment.readable
                self._text += chunk
                self._send(TranscriptChunk(chunk))
            case Done():
                self._send(Transcript(self._text, language="en"))
                self._send(TranscriptStop())
                self.ended(event)
            case Idle() | Failed():
                self.ended(event)


class Conversation:
    """One client's connection, from its first event to the last."""

    def __init__(self, app: FastAPI, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.models, self.settings, self.lobby = app.state.models, app.state.settings, app.state.lobby
        self.reader, self.writer = reader, writer
        self.idle_timer = IdleTimer(self.settings.idle_seconds, self.lobby)
        self.asked = Asked()
        self.session: WyomingSession | None = None
        self.format: Format | None = None  # of the open session

    async def receive(self) -> Event | None:
        return await read_event(self.reader, self.settings.max_message_bytes)

    async def hold(self) -> None:
        """Answer every event, up to the end of the connection or the first error."""
        from wyoming.error import Error

        code, reason = await self._hold()
        if code:
            if self.session is not None and self.session.live is not None and not self.session.live.over:
                self.session.finish()
                await asyncio.wait_for(self.session.over.wait(), self.settings.idle_seconds)
            self.send(Error(reason, code))
            await self._drain()
            await self._linger()

    async def _hold(self) -> tuple[str, str]:
        """Return the code and the text of the error that ends the connection, both "" if the client ends it."""
        try:
            with self.idle_timer:
                while (event := await self.idle_timer.receive(self)) is not None:
                    await self._answer(event)
                self.close()
                return "", ""
        except TimeoutError:
            return "idle", "no audio and no command for too long"
        except Full as error:
            return "busy", str(error)
        except TooLong as error:
            return "limit", str(error)
        except Over:
            return "failed", self.session.end[1] if self.session else ""
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return "bad_request", f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        except UserError as error:
            return "bad_request", str(error)

    async def _answer(self, event: Event) -> None:
        from wyoming.ping import Pong

        match event.type:
            case "describe":
                self.send(described(self.models.names))
            case "ping":
                text = event.data.get("text")
                self.send(Pong(text if isinstance(text, str) else None))
            case "transcribe":
                self._expect(open=False, event=event)
                self.asked = Asked.model_validate(event.data)
                self.models.engine(self.asked.name or "")  # reports a wrong name now
            case "audio-start":
                self._expect(open=False, event=event)
                self._open(Format.model_validate(event.data))
            case "audio-chunk":
                await self._audio(Format.model_validate(event.data), event.payload or b"")
            case "audio-stop":
                await self._stop(self._expect(open=True, event=event))
        await self._drain()

    def _expect(self, *, open: bool, event: Event) -> Any:
        """Return the session.  UserError unless there is one as the event needs it."""
        if (self.session is not None) != open:
            raise UserError(f"{event.type} {'without audio-start' if open else 'before audio-stop'}")
        return self.session

    def _open(self, format: Format) -> WyomingSession:
        from wyoming.asr import TranscriptStart

        search = self.models.engine(self.asked.name or "").recognizer.segmenter.search
        hotwords = self.asked.hotwords if "hotwords" in search.takes else None  # clients send names to every service
        session = WyomingSession(self.models, self.settings, self.send)
        start = protocol.AudioFormat(model=self.asked.name or "", sample_rate=format.rate, text="written")
        session.open(start, hotwords)
        self.session, self.format = session, format
        self.send(TranscriptStart(language="en"))
        self.idle_timer.renew(session=True)
        return session

    async def _audio(self, format: Format, data: bytes) -> None:
        from wyoming.audio import AudioChunk, AudioChunkConverter

        session = self.session or self._open(format)
        if format != self.format:
            raise UserError("audio-chunk: its rate, width and channels must be those of audio-start")
        if len(data) % (format.width * format.channels):
            raise UserError(f"audio-chunk: {len(data)} bytes are no whole number of samples")
        chunk = AudioChunk(audio=data, **format.model_dump())
        await session.audio(AudioChunkConverter(width=2, channels=1).convert(chunk).audio)
        if data:
            self.idle_timer.renew()

    async def _stop(self, session: WyomingSession) -> None:
        """End the audio, and wait for the transcript."""
        session.finish()
        await session.over.wait()
        if session.outcome == "failed":
            raise Over
        self.close()
        self.asked = Asked()
        self.idle_timer.renew()
        self.lobby.enter(self.idle_timer)

    def send(self, message: Any) -> None:
        """Queue an event for the client.  What a session sends is bounded by its audio; all else waits for `_drain`."""
        event = message.event()
        data = json.dumps(event.data, ensure_ascii=False).encode()
        if not self.writer.is_closing():
            self.writer.write(json.dumps({"type": event.type, "data_length": len(data)}).encode() + b"\n" + data)

    async def _drain(self) -> None:
        """Wait until the client has read.  ConnectionAbortedError if it does not."""
        try:
            await asyncio.wait_for(self.writer.drain(), self.settings.idle_seconds)
        except TimeoutError:
            raise ConnectionAbortedError("the client does not read") from None

    async def _linger(self) -> None:
        """Read what the client still sends: a connection that is closed with unread bytes is reset, and loses the error."""
        self.writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while await self.reader.read(HEAD_BYTES):
                    pass

    def close(self) -> None:
        """End the session at once."""
        session, self.session, self.format = self.session, None, None
        if session is not None:
            session.close()


def described(models: list[str]) -> Any:
    """Return the event that describes this service."""
    from wyoming.info import AsrModel, AsrProgram, Attribution, Info

    about: dict[str, Any] = {
        "attribution": Attribution("samba_asr", ""),
        "installed": True,
        "version": samba_asr.__version__,
    }
    found = [AsrModel(name=name, description=name, languages=["en"], **about) for name in models]
    what = "speech to text without attention"
    return Info(
        asr=[AsrProgram("samba_asr", description=what, models=found, supports_transcript_streaming=True, **about)]
    )


class Door:
    """The port of the protocol."""

    def __init__(self, app: FastAPI, shared: Connections, taken: Callable[[], int]):
        """shared: limits of the service's connections.  taken: returns how many there are at other ports."""
        self._app, self._shared, self._taken = app, shared, taken
        self._tasks: set[asyncio.Task] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listening: socket.socket) -> None:
        self._server = await asyncio.start_server(self._connected, sock=listening, limit=HEAD_BYTES)
        host, port, *_ = listening.getsockname()
        logger.info("ready", extra={"fields": {"url": f"tcp://{host}:{port}", "protocol": "wyoming"}})

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._taken() + self._shared.others >= self._shared.most:
            self._shared.refused += 1
            self._shared.rate_limit.warning("too many connections: new ones are refused", most=self._shared.most)
            writer.transport.abort()
            return
        conversation, task = Conversation(self._app, reader, writer), asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._shared.others += 1
        try:
            with suppress(OSError, TimeoutError):  # the client has disconnected, or does not read
                await conversation.hold()
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), self._app.state.settings.idle_seconds)
        finally:
            self._shared.others -= 1
            self._tasks.discard(task)
            conversation.close()
            writer.transport.abort()

    async def close(self) -> None:
        """Accept no more clients, and close their connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def listening(host: str, port: int) -> socket.socket:
    """Take the port.  UserError if it is taken, or if the package is missing."""
    try:
        import wyoming.audio  # noqa: F401
    except ImportError as error:
        raise missing_extra("wyoming", "wyoming") from error
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(f"--wyoming {port}: {error}; give another port") from None
