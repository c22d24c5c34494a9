"""`POST /v1/transcribe/stream`: receive raw audio in a chunked body, and send JSON lines while audio still arrives.

This is for clients with only HTTP; the messages are those of `WS /v1/stream`.

    arecord -f S16_LE -r 16000 | curl -sNT - 'localhost:8000/v1/transcribe/stream?sample_rate=16000'
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from samba_asr.engine import Full, Over
from samba_asr.errors import UserError
from samba_asr.serve import errors, protocol
from samba_asr.serve.access import drain
from samba_asr.serve.settings import Settings
from samba_asr.serve.stream import MessageSession, TooLong

router = APIRouter()


class Upload(MessageSession):
    KIND = "lines"


class NdJson(Response):
    media_type = "application/x-ndjson"


@router.put("/v1/transcribe/stream", include_in_schema=False)  # as curl -T sends it
@router.post(
    "/v1/transcribe/stream",
    response_class=NdJson,
    responses=errors.documented(errors.DETAIL, *errors.ASKED),
    openapi_extra={
        "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def lines(request: Request, asked: Annotated[protocol.AudioFormat, Query()]) -> Response:
    """Receive raw audio, and send messages as JSON lines."""
    settings: Settings = request.app.state.settings
    session = Upload(request.app.state.models, settings)
    try:
        session.start(asked)
    except Full as error:
        await drain(request.receive)
        raise HTTPException(503, str(error), headers={"Retry-After": str(settings.retry_seconds)}) from None
    except UserError as error:
        await drain(request.receive)
        raise HTTPException(400, str(error)) from None
    return Lines(request, session)


class Lines(NdJson):
    """Response that sends lines while the request's body is still being read.

    Starlette's own streaming response also reads the body, to see whether the client has disconnected, and loses what it reads.
    The session ends with the response, however that ends: after a malformed chunk not even its head can be sent.
    """

    def __init__(self, request: Request, session: MessageSession):
        super().__init__()
        del self.headers["content-length"]
        self.request, self.session = request, session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reading: asyncio.Task | None = None
        try:
            await self._send(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            reading = asyncio.create_task(_read(self.request, self.session))
            while True:
                message = await self.session.out.get()
                line = json.dumps(message, ensure_ascii=False) + "\n"
                await self._send(send, {"type": "http.response.body", "body": line.encode(), "more_body": True})
                if message["type"] == "done" or message.get("code") in ("failed", "gone"):
                    break
            await self._send(send, {"type": "http.response.body", "body": b""})
        except TimeoutError:
            self.session.outcome = "reads nothing"
        finally:
            if reading is not None:
                reading.cancel()
            self.session.close()

    async def _send(self, send: Send, message: Message) -> None:
        await asyncio.wait_for(send(message), self.session.settings.idle_seconds)


async def _read(request: Request, session: MessageSession) -> None:
    """Pass the body to the session, and its errors to the client."""
    chunks = request.stream().__aiter__()
    try:
        while True:
            try:
                data = await asyncio.wait_for(anext(chunks), session.settings.idle_seconds)
            except StopAsyncIteration:
                return session.finish()
            await session.audio(data)
    except ClientDisconnect:
        return session.out.put(protocol.error("gone", "the client is gone"))
    except Over:
        return
    except TimeoutError:
        session.report_idle()
    except TooLong as error:
        session.fault("limit", str(error))
    except UserError as error:
        session.fault("bad_request", str(error))
    session.finish()  # audio from before the error still gives its text
