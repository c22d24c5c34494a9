"""The dialect of vosk-server, which hundreds of clients speak: `WS /vosk`, and `WS /` where they look for it.

up     {"config": {"sample_rate": 16000, "words": 1, "phrase_list": [...]}}, optional; 16-bit audio; {"reset": 1}; {"eof": 1}
down   one reply a message: {"partial": text}, or {"text": text, "result": [{word, start, end, conf}]} when a segment is over;
       to reset and eof the text of what was received before, after which reset begins anew

The phrases are hotwords.  Why a connection is closed stands in its close frame.
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
from samba_asr.engine import Done, Event, Failed, Final, Flushed, Full, Idle, Over, Partial
from samba_asr.errors import UserError
from samba_asr.serve import protocol
from samba_asr.serve.lobby import Patience
from samba_asr.serve.models import Models
from samba_asr.serve.settings import Settings
from samba_asr.serve.stream import IDLE, Audio, close

router = APIRouter()


class Asked(BaseModel):
    """What of vosk's configuration is heeded."""

    sample_rate: float = Field(16000, ge=4000, le=192000)
    words: bool = True
    model: str = Field("", max_length=100)
    phrase_list: list[Annotated[str, Field(max_length=200)]] | None = Field(None, max_length=1000)

    @property
    def hotwords(self) -> list[str] | None:
        """The phrases without vosk's sign for all other words, which are never ruled out here."""
        return [phrase for phrase in self.phrase_list or () if phrase != "[unk]"] or None


class Ear(Audio):
    """What the engine has told; read in the event loop."""

    KIND = "vosk"

    def __init__(self, models: Models, settings: Settings):
        super().__init__(models, settings)
        self._loop = asyncio.get_running_loop()
        self.segments: list[Segment] = []
        self.partial = ""
        self.end = 1001, "the service is going down"  # unless the engine says why else it ended the session
        self.over, self.flushed = asyncio.Event(), asyncio.Event()

    def hear(self, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._hear, event)

    def _hear(self, event: Event) -> None:
        match event:
            case Partial(text):
                self.partial = text
            case Final(segment):
                self.segments.append(segment)
                self.partial = ""
            case Flushed():
                self.flushed.set()
            case Idle(seconds):
                self.end = IDLE, f"no audio and no order for {seconds:g} s"
            case Failed() | Done():
                self.outcome = "done" if isinstance(event, Done) else "failed"
                if isinstance(event, Failed):
                    self.end = 1011, event.reason
                self.over.set()
                self.flushed.set()

    def reply(self, words: bool, last: bool = False) -> dict[str, Any]:
        if not self.segments and not last:
            return {"partial": self.partial}
        segments, self.segments = self.segments, []
        found: dict[str, Any] = {"text": " ".join(s.text for s in segments)}
        if words:
            found["result"] = [
                {"conf": w.confidence, "end": w.end, "start": w.start, "word": w.text}
                for s in segments
                for w in s.words
            ]
        return found


class Conversation:
    """One client, from its first message to the last."""

    def __init__(self, socket: WebSocket):
        self.socket, self.settings = socket, socket.app.state.settings
        self.ear, self.asked = Ear(socket.app.state.models, self.settings), Asked()
        self.patience = Patience(self.settings.idle_seconds, socket.app.state.lobby)

    async def hold(self) -> tuple[int, str]:
        """Answer every message; the code and the reason to close with."""
        try:
            with self.patience:
                return await self._hold()
        except Over:
            await self._last()
            return self.ear.end
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
                message = await self.patience.receive(self.socket)
            except TimeoutError:
                await self._last()
                return IDLE, "no audio and no order for too long"
            if not await self._answer(message):
                return 1000, ""

    async def _answer(self, message: Message) -> bool:
        """False for the last message."""
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code") or 1006)
        data, told = message.get("bytes"), {}
        if data is None:
            told = json.loads(message.get("text") or "")
            if not isinstance(told, dict):
                raise UserError('a message is an object, such as {"eof": 1}')
            if "config" in told:
                self.asked = Asked.model_validate(told["config"])
                return True
        if self.ear.live is None:
            start = protocol.Audio(model=self.asked.model, sample_rate=int(self.asked.sample_rate))
            self.ear.open(start, self.asked.hotwords)
        if data is not None:
            await self.ear.audio(data)
        if data or told.get("reset") or told.get("eof"):
            self.patience.renew(session=True)
        if told.get("eof"):
            await self._last()
            return False
        if told.get("reset"):
            self.ear.flushed.clear()
            self.ear.flush()
            await self.ear.flushed.wait()
        await self._send(last=bool(told.get("reset")))
        return True

    async def _last(self) -> None:
        """Send the text of what has not been answered yet."""
        if self.ear.live is not None:
            self.ear.finish()
            await self.ear.over.wait()
            await self._send(last=True)

    async def _send(self, last: bool) -> None:
        reply = self.ear.reply(self.asked.words, last)
        await asyncio.wait_for(self.socket.send_json(reply), self.settings.idle_seconds)


@router.websocket("/vosk")
@router.websocket("/")
async def vosk(socket: WebSocket) -> None:
    await socket.accept()
    conversation = Conversation(socket)
    code, reason = 1011, ""
    try:
        with suppress(WebSocketDisconnect, RuntimeError, OSError):  # the client is gone, or reads nothing
            code, reason = await conversation.hold()
    finally:
        conversation.ear.close()
        with suppress(WebSocketDisconnect, RuntimeError, OSError):
            await close(socket, code, reason)
