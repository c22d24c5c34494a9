"""`POST /v1/audio/transcriptions`, as OpenAI's clients send it: a file in, its text out."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from samba_asr.audio.read import AudioError
from samba_asr.decoding.transcript import Segment
from samba_asr.errors import UserError
from samba_asr.formats import render
from samba_asr.recognizer import Result
from samba_asr.serve.models import Models
from samba_asr.serve.protocol import REFUSALS
from samba_asr.serve.settings import Settings

router = APIRouter()

MEDIA = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


@router.post(
    "/v1/audio/transcriptions",
    responses={
        **REFUSALS,
        200: {"content": {kind: {} for kind in ("application/json", "text/event-stream", *MEDIA.values())}},
    },
)
async def transcriptions(
    request: Request,
    file: Annotated[UploadFile, File(description="audio of any format")],
    model: Annotated[
        str, Form(description="as /v1/models names it; others, such as whisper-1, are the service's first")
    ] = "",
    response_format: Annotated[Literal["json", "text", "verbose_json", "srt", "vtt"], Form()] = "json",
    latency_ms: Annotated[
        float | None, Form(gt=0, description="encoder latency; the longest if it is not given")
    ] = None,
    stream: Annotated[bool, Form(description="server-sent events, a segment each")] = False,
    prompt: Annotated[str, Form(description="ignored", max_length=10_000)] = "",
    language: Annotated[str, Form(description="ignored", max_length=20)] = "",
    temperature: Annotated[float, Form(description="ignored")] = 0.0,
) -> Response:
    """OpenAI's transcription call.  The text is that of `samba-asr transcribe`."""
    settings: Settings = request.app.state.settings
    uploads: Uploads = request.app.state.uploads
    if not uploads.take():
        raise HTTPException(503, "all places for files are taken", headers={"Retry-After": str(settings.retry_seconds)})
    try:
        data = await file.read(settings.max_upload_bytes + 1)
        if len(data) > settings.max_upload_bytes:
            raise HTTPException(413, f"a file may have {settings.max_upload_bytes} bytes")
        models: Models = request.app.state.models
        recognizer = models.engine(model if model in models.names else "").recognizer
    except BaseException:
        uploads.give()
        raise
    work = partial(recognizer.transcribe, data, latency_ms=latency_ms, longest=settings.max_file_seconds)
    if stream:
        return StreamingResponse(events(uploads, work), media_type="text/event-stream")
    try:
        result = await uploads.run(work)
    except AudioError as error:
        raise HTTPException(400, f"the file cannot be read: {error}") from None
    except UserError as error:
        raise HTTPException(400, str(error)) from None
    return answer(result, file.filename or "audio", response_format)


class Uploads:
    """Files that are transcribed, each in a thread of its own: `places` of them, and no more wait.  Used in the event loop."""

    def __init__(self, places: int):
        self._pool, self._free = ThreadPoolExecutor(places, "samba_asr-upload"), places
        self._closing = False

    def take(self) -> bool:
        """A place, for `run` or to be given back; False if there is none."""
        if not self._free:
            return False
        self._free -= 1
        return True

    def give(self) -> None:
        self._free += 1

    def run(
        self, work: Callable[..., Result], tell: Callable[[Segment], bool] = lambda segment: True
    ) -> asyncio.Future[Result]:
        """Work in the place that was taken, which is free again when it is over.

        tell: called in the thread with each segment; False ends the work there, as the end of the service does.
        """
        loop = asyncio.get_running_loop()

        def on_segment(segment: Segment) -> None:
            if self._closing or not tell(segment):
                raise UserError("nobody waits for the text any more")

        def over(_) -> None:
            with suppress(RuntimeError):  # the loop has ended, too
                loop.call_soon_threadsafe(self.give)

        future = self._pool.submit(work, on_segment=on_segment)
        future.add_done_callback(over)
        return asyncio.wrap_future(future)

    def close(self) -> None:
        self._closing = True
        self._pool.shutdown(wait=False, cancel_futures=True)


def events(uploads: Uploads, work: Callable[..., Result]) -> AsyncIterator[str]:
    """OpenAI's events: a delta for each segment as soon as it is over, then the text.  The work begins at once."""
    loop, told, gone = asyncio.get_running_loop(), asyncio.Queue(), threading.Event()

    def tell(segment: Segment) -> bool:
        loop.call_soon_threadsafe(told.put_nowait, segment)
        return not gone.is_set()

    task = uploads.run(work, tell)
    task.add_done_callback(lambda _: told.put_nowait(None))

    async def events() -> AsyncIterator[str]:
        space = ""
        try:
            while (segment := await told.get()) is not None:
                yield _event({"type": "transcript.text.delta", "delta": space + segment.text})
                space = " "
            try:
                yield _event({"type": "transcript.text.done", "text": task.result().text})
            except UserError as error:
                yield _event({"type": "error", "message": str(error)})
        finally:
            gone.set()
            task.cancelled() or (task.done() and task.exception())  # seen

    return events()


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def answer(result: Result, name: str, form: str) -> Response:
    if form in MEDIA:
        return PlainTextResponse(render(result, name, form) + "\n", media_type=MEDIA[form])
    if form == "json":
        return JSONResponse({"text": result.text})
    verbose: dict[str, Any] = {
        "task": "transcribe",
        "language": "english",
        "duration": round(result.duration, 3),
        "text": result.text,
        "words": [word.entry() for word in result.words],
        "segments": [{"id": i, "start": s.start, "end": s.end, "text": s.text} for i, s in enumerate(result.segments)],
    }
    return JSONResponse(verbose)
