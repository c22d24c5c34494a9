"""The protocol of vosk-server, which many clients support: `WS /vosk`, and `WS /`, its own address.

up     {"config": {"sample_rate": 16000, "words": 1, "phrase_list": [...]}}, optional; 16-bit audio; {"reset": 1}; {"eof": 1}
down   one reply to each message: {"partial": text}, or {"text": text, "result": [{word, start, end, conf}]} after a segment;
       to reset and eof the text of the audio received before, after which reset starts again

The phrases are hotwords.  The close frame has the reason why a connection is closed.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, Field, ValidationError
from starlette.types import Message

from samba_asr.decoding.transcript import Segment
from samba_asr.engine import Done, Failed, Final, Flushed, Full, Idle, News, Over, Partial
from samba_asr.errors import UserError
from samba_asr.serve import protocol
from samba_asr.serve.lobby import IdleTimer
from samba_asr.serve.models import Models
from samba_asr.serve.settings import Settings
from samba_asr.serve.stream import IDLE, LoopSession, close

router = APIRouter()


class Asked(BaseModel):
    """Supported fields of vosk's configuration."""

    sample_rate: float = Field(default=16000, ge=4000, le=192000)
    words: bool = True
    model: str = Field(default="", max_length=100)
    phrase_list: list[Annotated[str, Field(max_length=200)]] | None = Field(default=None, max_length=1000)

    @property
    def hotwords(self) -> list[str] | None:
        """Phrases without vosk's symbol for all other words, which are always allowed here."""
        return [phrase for phrase in self.phrase_list or () if phrase != "[unk]"] or None


class VoskSession(LoopSession):
    """Results of a session that have not been sent yet; used in the event loop."""

    KIND = "vosk"

    def __init__(self, models: Models, settings: Settings):
        super().__init__(models, settings)
        self.segments: list[Segment] = []
        self.partial = ""
        self.flushed = asyncio.Event()

    def handle(self, event: News) -> None:
        match event:
            case Partial(text):
                self.partial = text.lower()
            case Final(segment):
                self.segments.append(segment)
                self.partial = ""
            case Flushed():
                self.flushed.set()
            case Idle():
                self.ended(event)
            case Failed() | Done():
                self.ended(event)
                self.flushed.set()

    def reply(self, words: bool, last: bool = False) -> dict[str, Any]:
        if not self.segments and not last:
            return {"partial": self.partial}
        segments, self.segments = self.segments, []
        found: dict[str, Any] = {"text": " ".join(s.text for s in segments).lower()}
        if words:
            found["result"] = [
                {"conf": w.confidence, "end": w.end, "start": w.start, "word": w.text.lower()}
                for s in segments
                for w in s.words
            ]
        return found


class Conversation:
    """One client's connection, from its first message to the last."""

    def __init__(self, socket: WebSocket):
        self.socket, self.settings = socket, socket.app.state.settings
        self.session, self.asked = VoskSession(socket.app.state.models, self.settings), Asked()
        self.idle_timer = IdleTimer(self.settings.idle_seconds, socket.app.state.lobby)

    async def hold(self) -> tuple[int, str]:
        """Answer every message; return the code and the reason to close with."""
        try:
            with self.idle_timer:
                return await self._hold()
        except Over:
            await self._last()
            return self.session.end
        except Full as error:
            return 1013, str(error)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return 1008, f"config.{'.'.join(map(str, first['loc']))}: {first['msg']}"
        except UserError as error:
            return 1008, str(error)
        except (ValueError, RecursionError):
            return 1008, "a text message is a JSON object; audio is a binary message"

    async def _hold(self) -> tuple[int, str]:
        while True:
            try:
                message = await self.idle_timer.receive(self.socket)
            except TimeoutError:
                await self._last()
                return IDLE, "no audio and no command for too long"
            if not await self._answer(message):
                return 1000, ""

    async def _answer(self, message: Message) -> bool:
        """Answer a message; return False for the last one."""
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code") or 1006)
        data, command = message.get("bytes"), {}
        if data is None:
            command = json.loads(message.get("text") or "")
            if not isinstance(command, dict):
                raise UserError('a message is an object, such as {"eof": 1}')
            if "config" in command:
                self.asked = Asked.model_validate(command["config"])
                return True
        if self.session.live is None:
            start = protocol.AudioFormat(model=self.asked.model, sample_rate=int(self.asked.sample_rate))
            self.session.open(start, self.asked.hotwords)
        if data is not None:
            await self.session.audio(data)
        if data or command.get("reset") or command.get("eof"):
            self.idle_timer.renew(session=True)
        if command.get("eof"):
            await self._last()
            return False
        if command.get("reset"):
            self.session.flushed.clear()
            self.session.flush()
            await self.session.flushed.wait()
        await self._send(last=bool(command.get("reset")))
        return True

    async def _last(self) -> None:
        """Send the text of what has not been answered yet."""
        if self.session.live is not None:
            self.session.finish()
            await self.session.over.wait()
            await self._send(last=True)

    async def _send(self, last: bool) -> None:
        reply = self.session.reply(self.asked.words, last)
        await asyncio.wait_for(self.socket.send_json(reply), self.settings.idle_seconds)


@router.websocket("/vosk")
@router.websocket("/")
async def vosk(socket: WebSocket) -> None:
    await socket.accept()
    conversation = Conversation(socket)
    code, reason = 1011, ""
    try:
        with suppress(WebSocketDisconnect, RuntimeError, OSError):  # the client has disconnected, or does not read
            code, reason = await conversation.hold()
    finally:
        conversation.session.close()
        with suppress(WebSocketDisconnect, RuntimeError, OSError):
            await close(socket, code, reason)
