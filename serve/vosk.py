"""The dialect of vosk-server, which hundreds of clients speak: `WS /vosk`, and `WS /` where they look for it.

up     {"config": {"sample_rate": 16000, "words": 1, "phrase_list": [...]}}, optional; 16-bit audio; {"eof": 1}
down   one reply a message: {"partial": text}, or {"text": text, "result": [{word, start, end, conf}]} when a segment is over
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, Field, ValidationError

from samba_asr.decoding.transcript import Segment
from samba_asr.engine import Done, Event, Failed, Final, Full, Over, Partial
from samba_asr.errors import UserError
from samba_asr.serve import protocol
from samba_asr.serve.lobby import Patience
from samba_asr.serve.models import Models
from samba_asr.serve.settings import Settings
from samba_asr.serve.stream import Audio

router = APIRouter()


class Asked(BaseModel):
    """What of vosk's configuration is heeded."""

    sample_rate: float = Field(16000, ge=4000, le=192000)
    words: bool = True
    model: str = Field("", max_length=100)


class Ear(Audio):
    """What the engine has told; read in the event loop."""

    KIND = "vosk"

    def __init__(self, models: Models, settings: Settings):
        super().__init__(models, settings)
        self._loop = asyncio.get_running_loop()
        self.segments: list[Segment] = []
        self.partial = ""
        self.over = asyncio.Event()

    def hear(self, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._hear, event)

    def _hear(self, event: Event) -> None:
        match event:
            case Partial(text):
                self.partial = text
            case Final(segment):
                self.segments.append(segment)
                self.partial = ""
            case Failed() | Done():
                self.outcome = "done" if isinstance(event, Done) else "failed"
                self.over.set()

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


@router.websocket("/vosk")
@router.websocket("/")
async def vosk(socket: WebSocket) -> None:
    settings: Settings = socket.app.state.settings
    await socket.accept()
    ear, asked = Ear(socket.app.state.models, settings), Asked()
    patience, code = Patience(settings.idle_seconds, socket.app.state.lobby), 1000
    patience.lobby.enter(patience)
    try:
        while True:
            message = await patience.receive(socket)
            if message["type"] == "websocket.disconnect":
                return
            data, told = message.get("bytes"), {}
            if data is None:
                told = json.loads(message.get("text") or "")
                if not isinstance(told, dict):
                    raise UserError('a message is an object, such as {"eof": 1}')
                if "config" in told:
                    asked = Asked.model_validate(told["config"])
                    continue
            if ear.live is None:
                ear.open(protocol.Audio(model=asked.model, sample_rate=int(asked.sample_rate)))
            if data is not None:
                await ear.audio(data)
            if data or told.keys() & {"eof", "reset"}:
                patience.renew(session=True)
            if told.get("eof"):
                ear.live.finish()
                await ear.over.wait()
                await socket.send_json(ear.reply(asked.words, last=True))
                break
            await socket.send_json(ear.reply(asked.words))
    except Over:  # the service goes down
        code = 1001
        with suppress(RuntimeError, OSError, WebSocketDisconnect):
            await ear.over.wait()
            await socket.send_json(ear.reply(asked.words, last=True))
    except Full:
        code = 1013
    except (UserError, ValidationError, ValueError, RecursionError):
        code = 1008
    except (WebSocketDisconnect, TimeoutError, RuntimeError, OSError):
        code = 1011
    finally:
        patience.lobby.leave(patience)
        ear.close()
        with suppress(RuntimeError, OSError):
            await socket.close(code)
