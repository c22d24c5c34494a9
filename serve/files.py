"""`POST /v1/audio/transcriptions`, as OpenAI's clients send it: a file in, its text out."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from samba_asr.audio.read import AudioError
from samba_asr.decoding.transcript import Segment
from samba_asr.errors import UserError
from samba_asr.formats import render
from samba_asr.recognizer import Result
from samba_asr.serve import errors
from samba_asr.serve.access import drain
from samba_asr.serve.models import Models
from samba_asr.serve.settings import Settings


class Placed(APIRoute):
    """A route whose requests take their place before anything of the body is read."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:
        handle = super().get_route_handler()

        async def placed(request: Request) -> Response:
            place: Place | None = request.app.state.uploads.take()
            if place is None:
                await drain(request.receive)
                retry = str(request.app.state.settings.retry_seconds)
                raise errors.Refusal(503, "all places for files are taken", headers={"Retry-After": retry})
            request.state.place = place
            try:
                return await handle(request)
            finally:
                place.leave()

        return placed


router = APIRouter(route_class=Placed)

FORM: Any = {"max_files": 1, "max_fields": 20, "max_part_size": 1 << 16}
logger = logging.getLogger(__name__)

MEDIA = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


@router.post(
    "/v1/audio/transcriptions",
    responses={
        **errors.documented(errors.OPENAI_ERROR, *errors.ASKED),
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
    models: Models = request.app.state.models
    recognizer = models.engine(model if model in models.names else "").recognizer
    work = partial(recognizer.transcribe, latency_ms=latency_ms, longest=settings.max_file_seconds)
    job = Job(request.state.place, _spool(file), work)
    watching = asyncio.create_task(_watch(request, job))
    try:
        if stream:
            await job.begun()
            return Events(job)
        result = await job.result()
    except AudioError as error:
        raise errors.Refusal(400, f"the file cannot be read: {error}", param="file") from None
    except Gone:
        return Response(status_code=499)  # which nobody receives
    except UserError as error:
        raise errors.Refusal(400, str(error)) from None
    finally:
        watching.cancel()
    return answer(result, file.filename or "audio", response_format)


def _spool(file: UploadFile) -> IO[bytes]:
    """The uploaded bytes, on disk: memory is not for them.  It outlives the request, at whose end FastAPI closes `file`."""
    descriptor = os.dup(file.file.fileno())
    file.file.flush()
    return open(descriptor, "rb")


async def _watch(request: Request, job: Job) -> None:
    """End the work when the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.gone = True


class Gone(UserError):
    """Nobody waits for the text any more."""


class Uploads:
    """Places for files: from before its body is read until its text is there, an upload holds one.  Used in the event loop."""

    def __init__(self, places: int):
        self.pool, self.places = ThreadPoolExecutor(places, "samba_asr-upload"), places
        self.free, self.closing = places, False

    @property
    def taken(self) -> int:
        return self.places - self.free

    def take(self) -> Place | None:
        if not self.free:
            return None
        self.free -= 1
        return Place(self)

    def close(self) -> None:
        self.closing = True
        self.pool.shutdown(wait=False, cancel_futures=True)


class Place:
    """One of the places, free again when its request is over and no thread works for it any more."""

    def __init__(self, uploads: Uploads):
        self.uploads, self._holders = uploads, 1

    def hold(self) -> None:
        self._holders += 1

    def leave(self) -> None:
        self._holders -= 1
        if not self._holders:
            self.uploads.free += 1


class Job:
    """A file that is being transcribed in a thread; it begins at once.

    work: `Recognizer.transcribe`.  Set `gone` to end it after the block that it is at.  The file is closed when that is over.
    """

    def __init__(self, place: Place, file: IO[bytes], work: Callable[..., Result]):
        self.gone, self._uploads = False, place.uploads
        self._loop, self._told = asyncio.get_running_loop(), asyncio.Queue()
        self._first: Segment | None = None
        place.hold()
        future = place.uploads.pool.submit(work, file, on_segment=self._segment, on_block=self._block)
        future.add_done_callback(lambda _: file.close())
        future.add_done_callback(lambda _: self._call(place.leave))
        self._task = asyncio.wrap_future(future)
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # seen
        self._task.add_done_callback(lambda _: self._told.put_nowait(None))

    async def result(self) -> Result:
        """All of it, or what `transcribe` raises; Gone."""
        return await asyncio.shield(self._task)

    async def begun(self) -> None:
        """Return when there is a first segment; raise what `transcribe` does before that."""
        self._first = await self._told.get()
        if self._first is None:
            await self.result()

    async def segments(self) -> AsyncIterator[Segment]:
        """All of them, as they are found; `begun` comes first."""
        segment = self._first
        while segment is not None:
            yield segment
            segment = await self._told.get()

    def _segment(self, segment: Segment) -> None:
        self._call(self._told.put_nowait, segment)

    def _block(self, _: float) -> None:
        if self.gone or self._uploads.closing:
            raise Gone("nobody waits for the text any more")

    def _call(self, act: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(act, *arguments)


class Events(Response):
    """OpenAI's events: a delta for each segment as soon as it is over, then the text.  The work ends with the response."""

    media_type = "text/event-stream"

    def __init__(self, job: Job):
        super().__init__()
        del self.headers["content-length"]
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching = asyncio.create_task(_watch(Request(scope, receive), self.job))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self._events():
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.job.gone = True
            watching.cancel()

    async def _events(self) -> AsyncIterator[str]:
        space = ""
        async for segment in self.job.segments():
            yield _event({"type": "transcript.text.delta", "delta": space + segment.text})
            space = " "
        try:
            yield _event({"type": "transcript.text.done", "text": (await self.job.result()).text})
        except UserError as error:
            yield _event({"type": "error", **errors.content(400, str(error))})
        except Exception:
            logger.exception("a file failed")
            yield _event({"type": "error", **errors.content(500, "internal error")})


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
