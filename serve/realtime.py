"""OpenAI's Realtime API for transcription sessions: `WS /v1/realtime`.

up     session.update {session: {type: "transcription", audio: {input: {format, transcription, turn_detection}}}}, optional
       input_audio_buffer.append {audio: base64 of 16-bit PCM, 24 kHz} | input_audio_buffer.commit | input_audio_buffer.clear
down   session.created, session.updated, error; input_audio_buffer.speech_started, .speech_stopped, .committed, .cleared;
       conversation.item.input_audio_transcription.delta, .completed

With turn detection (the default) a segment of speech is an item, which ends after `silence_duration_ms`; with `turn_detection:
null` the client commits.  A commit ends the open item in both cases.  A noise that is no speech is an item without text.  Deltas
are words that will not change; the completed transcript is the one to keep, because marks and case may differ from those of the
deltas.  An error leaves the session open.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import uuid
from collections import deque
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from samba_asr.decoding.turns import LONGEST
from samba_asr.engine import Done, Failed, Final, Flushed, Full, Idle, News, Over, Partial, SpeechStarted, TurnEnded
from samba_asr.errors import UserError
from samba_asr.serve import protocol
from samba_asr.serve.lobby import IdleTimer
from samba_asr.serve.models import Models
from samba_asr.serve.settings import Settings
from samba_asr.serve.stream import IDLE, LoopSession, Outbox, TooLong, close

router = APIRouter()

RATE = 24000  # samples a second, the only rate of OpenAI's PCM


class Format(BaseModel):
    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = RATE


class Transcription(BaseModel):
    model: str = Field(default="", max_length=100)
    language: str = Field(default="", max_length=20)
    prompt: str = Field(default="", max_length=10_000)


class TurnDetection(BaseModel):
    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    silence_duration_ms: int | None = Field(default=None, ge=100, le=1000 * LONGEST)


class Input(BaseModel):
    format: Format = Field(default_factory=Format)
    transcription: Transcription | None = Field(default_factory=Transcription)
    turn_detection: TurnDetection | None = Field(default_factory=TurnDetection)


class Audio(BaseModel):
    input: Input = Field(default_factory=Input)


class Configuration(BaseModel):
    """A transcription session; fields that only conversations have are ignored."""

    type: Literal["transcription"] = "transcription"
    audio: Audio = Field(default_factory=Audio)


class Update(BaseModel):
    type: Literal["session.update"]
    event_id: str = Field(default="", max_length=512)
    session: Configuration


class Append(BaseModel):
    type: Literal["input_audio_buffer.append"]
    event_id: str = Field(default="", max_length=512)
    audio: str


class Commit(BaseModel):
    type: Literal["input_audio_buffer.commit"]
    event_id: str = Field(default="", max_length=512)


class Clear(BaseModel):
    type: Literal["input_audio_buffer.clear"]
    event_id: str = Field(default="", max_length=512)


_UP = TypeAdapter(Annotated[Update | Append | Commit | Clear, Field(discriminator="type")])


class Fault(UserError):
    """Error of one event of the client.  code: OpenAI's name of it.  event: id of the event."""

    def __init__(self, message: str, code: str = "invalid_value", event: str | None = None):
        super().__init__(message)
        self.code, self.event = code, event


def parse(text: str) -> Update | Append | Commit | Clear:
    """Parse a client's event.  Fault if it is none."""
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise Fault("an event is a JSON object, in a text message", "invalid_json") from None
    event = content.get("event_id") if isinstance(content.get("event_id"), str) else None
    try:
        return _UP.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        raise Fault(f"{where + ': ' if where else ''}{first['msg']}", event=event) from None


class RealtimeSession(LoopSession):
    """A session whose events become OpenAI's; an item is a segment, or what a commit ends."""

    KIND = "realtime"

    def __init__(self, models: Models, settings: Settings):
        super().__init__(models, settings)
        self.out = Outbox(self._loop)
        self.manual = False  # no turn detection
        self.commits: deque[str] = deque()  # items that wait for their flush; "" for audio to forget
        self.uncommitted = 0.0  # seconds received since the last item ended
        self._before: str | None = None  # the last item
        self._begin()

    def _begin(self) -> None:
        self.item = f"item_{uuid.uuid4().hex[:20]}"
        self._texts, self._sent, self._started, self._from = [], "", False, 0.0

    def handle(self, event: News) -> None:
        match event:
            case Partial():
                self._show(event)
            case SpeechStarted(at):
                self._start(at)
            case TurnEnded(_, until) if self._started and not (self._texts or self.manual or self.commits):
                self._complete(until)  # nothing was said
            case Final(segment):
                self._start(segment.start)
                self._texts.append(segment.readable)
                self._from = segment.until
                if not self.manual and "" not in self.commits:
                    self._complete(segment.until)
            case Flushed(name):
                self._flushed(name)
            case Idle():
                self.ended(event)
            case Failed() | Done():
                if isinstance(event, Done) and self._texts:
                    self._complete(event.seconds)
                self.ended(event)
                self.send("")

    def _show(self, event: Partial) -> None:
        """Send the stable words that are new."""
        if not event.text or "" in self.commits:
            return
        self._start(self._from)
        stable = (event.written or (event.text, event.stable))[1]
        self._delta(" ".join([*self._texts, stable] if stable else self._texts))

    def _delta(self, text: str) -> None:
        """Send what is new in a text.  If it changed what was sent, which no delta can, the words after as many are new."""
        if text.startswith(self._sent):
            delta = text[len(self._sent) :]
        else:
            delta = "".join(f" {word}" for word in text.split()[len(self._sent.split()) :])
        if delta:
            self._sent += delta
            self.send(
                "conversation.item.input_audio_transcription.delta", item_id=self.item, content_index=0, delta=delta
            )

    def _start(self, seconds: float) -> None:
        if not self._started:
            self._started = True
            if not self.manual and "" not in self.commits:
                ms = round(1000 * seconds)
                self.send("input_audio_buffer.speech_started", item_id=self.item, audio_start_ms=ms)

    def _complete(self, until: float, committed: bool = False) -> None:
        """End the open item, and send its transcript.  committed: the client has ended it."""
        item, text, seconds = self.item, " ".join(self._texts), self.uncommitted
        if not committed and item not in self.commits:
            self.send("input_audio_buffer.speech_stopped", item_id=item, audio_end_ms=round(1000 * until))
            self.send("input_audio_buffer.committed", item_id=item, previous_item_id=self._before)
        self._delta(text)
        self.send(
            "conversation.item.input_audio_transcription.completed",
            item_id=item,
            content_index=0,
            transcript=text,
            usage={"type": "duration", "seconds": round(seconds, 3)},
        )
        self._before, self.uncommitted = item, 0.0
        self._begin()
        self._from = until

    def _flushed(self, name: str) -> None:
        with suppress(ValueError):
            self.commits.remove(name)
        if name == "":
            self._begin()
        elif name == self.item:
            self._complete(self._from, committed=True)

    def commit(self, event: str | None) -> None:
        """End the open item.  Fault if no audio came since the last one."""
        if self.live is None or not self.uncommitted:
            raise Fault("the input audio buffer is empty: append audio first", "input_audio_buffer_commit_empty", event)
        self.send("input_audio_buffer.committed", item_id=self.item, previous_item_id=self._before)
        self.commits.append(self.item)
        self.flush(self.item)

    def clear(self) -> None:
        """Forget the audio of the open item."""
        if self.live is not None and self.uncommitted:
            self.commits.append("")
            self.flush("")
        self.uncommitted = 0.0
        self.send("input_audio_buffer.cleared")

    def send(self, kind: str, **fields: Any) -> None:
        """Queue an event; "" is the end."""
        self.out.put({"type": kind, "event_id": f"event_{uuid.uuid4().hex[:20]}", **fields})


class Conversation:
    """One client's connection, from its first event to the last."""

    def __init__(self, socket: WebSocket):
        self.socket, self.settings = socket, socket.app.state.settings
        self.session = RealtimeSession(socket.app.state.models, self.settings)
        self.asked = Configuration()
        self.idle_timer = IdleTimer(self.settings.idle_seconds, socket.app.state.lobby)

    async def hold(self) -> tuple[int, str]:
        """Read events to the end; return the code and the reason to close with."""
        self.session.send("session.created", session=self._described())
        with self.idle_timer:
            while True:
                try:
                    message = await self.idle_timer.receive(self.socket)
                except TimeoutError:
                    return IDLE, "no audio and no command for too long"
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message.get("code") or 1006)
                try:
                    await self._answer(parse(message.get("text") or ""))
                except Full as error:
                    return 1013, str(error)
                except TooLong as error:
                    return 4413, str(error)
                except Over:
                    return self.session.end
                except UserError as error:
                    code, event = getattr(error, "code", "invalid_value"), getattr(error, "event", None)
                    about = {"type": "invalid_request_error", "code": code, "message": str(error), "event_id": event}
                    self.session.send("error", error={**about, "param": None})

    async def _answer(self, event: Update | Append | Commit | Clear) -> None:
        match event:
            case Update():
                self._update(event)
            case Append():
                await self._append(event)
            case Commit():
                self.session.commit(event.event_id or None)
            case Clear():
                self.session.clear()
        self.idle_timer.renew(session=self.session.live is not None)

    def _update(self, event: Update) -> None:
        wanted = event.session.audio.input
        models: Models = self.socket.app.state.models
        if self.session.live is not None and self._model(wanted) != self._model(self.asked.audio.input):
            known = ", ".join(models.names)
            raise Fault(f"the model cannot change after audio (this service has {known})", event=event.event_id)
        self.asked, self.session.manual = event.session, wanted.turn_detection is None
        self.session.send("session.updated", session=self._described())

    def _model(self, asked: Input) -> str:
        """Return the model of a session; names that the service does not know mean its first."""
        name = asked.transcription.model if asked.transcription else ""
        return name if name in self.socket.app.state.models.names else ""

    async def _append(self, event: Append) -> None:
        try:
            data = base64.b64decode(event.audio, validate=True)
        except (binascii.Error, ValueError):
            raise Fault("audio: it must be base64", event=event.event_id) from None
        if len(data) % 2:
            raise Fault(f"audio: {len(data)} bytes are no whole number of 16-bit samples", event=event.event_id)
        session = self.session
        if session.live is None:
            wanted = self.asked.audio.input
            silence = wanted.turn_detection and wanted.turn_detection.silence_duration_ms
            start = protocol.AudioFormat(
                model=self._model(wanted), sample_rate=RATE, text="written", turns=True, end_ms=silence
            )
            session.open(start)
        await session.audio(data)
        session.uncommitted += len(data) / 2 / RATE

    def _described(self) -> dict[str, Any]:
        return {**self.asked.model_dump(), "id": f"sess_{self.session.id}", "object": "realtime.transcription_session"}

    async def send_all(self) -> None:
        """Send events until the session ends.  TimeoutError if the client does not read."""
        while (message := await self.session.out.get())["type"]:
            await asyncio.wait_for(self.socket.send_json(message), self.settings.idle_seconds)


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket) -> None:
    await socket.accept()
    conversation = Conversation(socket)
    sending = asyncio.create_task(conversation.send_all())
    holding = asyncio.create_task(conversation.hold())
    code, reason = 1011, ""
    try:
        with suppress(
            WebSocketDisconnect, RuntimeError, OSError, TimeoutError
        ):  # the client has left, or does not read
            await asyncio.wait({sending, holding}, return_when=asyncio.FIRST_COMPLETED)
            if holding.done():
                code, reason = holding.result()
                if conversation.session.live is not None and not conversation.session.live.over:
                    conversation.session.finish()
                    await asyncio.wait_for(conversation.session.over.wait(), conversation.settings.idle_seconds)
                else:
                    conversation.session.send("")
                await sending
            else:
                sending.result()
                code, reason = conversation.session.end
    finally:
        for task in (sending, holding):
            task.cancel()
        conversation.session.close()
        with suppress(WebSocketDisconnect, RuntimeError, OSError):
            await close(socket, code, reason)
