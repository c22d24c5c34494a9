"""`POST /v1/audio/transcriptions`, OpenAI's call: a file in, its text out."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from samba_asr.audio.read import AudioError
from samba_asr.decoding.hotwords import parse
from samba_asr.decoding.transcript import MOST, Segment
from samba_asr.errors import UserError, printable
from samba_asr.formats import Style, entry, render
from samba_asr.result import Result
from samba_asr.serve import errors, protocol
from samba_asr.serve.access import drain
from samba_asr.serve.models import Models
from samba_asr.serve.settings import Settings
from samba_asr.subtitles import Layout


class Placed(APIRoute):
    """Route whose requests take an upload place before their body is read."""

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

OPENAI_MODELS = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-diarize")
"""Names that OpenAI's clients give by default; they stand for the service's first model."""
ENGLISH = ("", "en", "eng", "english")
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
        str,
        Form(
            description="name of a model from /v1/models; OpenAI's names, such as whisper-1, give the service's first"
        ),
    ] = "",
    response_format: Annotated[Literal["json", "text", "verbose_json", "srt", "vtt"], Form()] = "json",
    latency_ms: Annotated[float | None, Form(gt=0, description="encoder latency; default: the longest")] = None,
    stream: Annotated[
        bool, Form(description="send events, one for each segment; of verbose_json with its words")
    ] = False,
    text: Annotated[Literal["written", "spoken"], Form(description="written: punctuation, case, digits")] = "written",
    itn: Annotated[bool, Form(description="numbers of the written text in digits")] = True,
    max_line_width: Annotated[int, Form(description="subtitles: characters of a line")] = 42,
    max_lines: Annotated[int, Form(description="subtitles: lines")] = 2,
    max_cps: Annotated[float, Form(description="subtitles: characters a second that people can read")] = 17.0,
    min_duration: Annotated[float, Form(description="subtitles: seconds, if the next one leaves the time")] = 1.0,
    max_duration: Annotated[float, Form(description="subtitles: seconds")] = 7.0,
    word_timestamps: Annotated[bool, Form(description="vtt: mark the start of each word")] = False,
    alternatives: Annotated[
        int, Form(ge=0, le=MOST, description="verbose_json: other words that may have been said, of each word")
    ] = 3,
    timestamp_granularities: Annotated[
        list[Literal["word", "segment"]] | None,
        Form(alias="timestamp_granularities[]", description="parts of verbose_json; default: both"),
    ] = None,
    hotwords: Annotated[
        str, Form(description="phrases to expect, one on each line, each with its weight after a colon or without")
    ] = "",
    prompt: Annotated[str, Form(description="ignored", max_length=10_000)] = "",
    language: Annotated[str, Form(description="en, or nothing: the models know no other", max_length=20)] = "",
    temperature: Annotated[float, Form(description="ignored")] = 0.0,
) -> Response:
    """Transcribe a file, by OpenAI's call.  The text is that of `samba-asr transcribe`."""
    settings: Settings = request.app.state.settings
    models: Models = request.app.state.models
    if language.lower() not in ENGLISH and not language.lower().startswith("en-"):
        raise errors.Refusal(
            400, f"language {language}: this service transcribes English", param="language", code="unsupported_language"
        )
    if model and model not in (*models.names, *OPENAI_MODELS):
        raise errors.unknown_model(model, models.names)
    recognizer = models.engine(model if model in models.names else "").recognizer
    try:
        layout = Layout(max_line_width, max_lines, max_cps, min_duration, max_duration)
    except UserError as error:
        raise errors.Refusal(400, str(error)) from None
    try:
        phrases = parse(hotwords.splitlines(), recognizer.decode.hotwords.weight)
    except UserError as error:
        raise errors.Refusal(400, str(error), param="hotwords") from None
    options = {"latency_ms": latency_ms, "hotwords": phrases or None, "text": text, "digits": itn}
    work = partial(recognizer.transcribe, longest=settings.max_file_seconds, **options)
    job = Job(request.state.place, _spool(file), work)
    watching = asyncio.create_task(_watch(request, job))
    try:
        if stream:
            await job.begun()
            return Events(job, alternatives if response_format == "verbose_json" else None)
        result = await job.result()
    except AudioError as error:
        why = str(error).replace("<audio>", printable(file.filename or "audio"))
        raise errors.Refusal(400, f"the file cannot be read: {why}", param="file") from None
    except Gone:
        return Response(status_code=499)  # the client has disconnected
    except UserError as error:
        raise errors.Refusal(400, str(error)) from None
    finally:
        watching.cancel()
    parts = timestamp_granularities or ["word", "segment"]
    style = Style(text, layout, word_timestamps, alternatives)  # in a thread: subtitles of hours take seconds
    return await asyncio.to_thread(answer, result, file.filename or "audio", response_format, style, parts)


@router.post("/v1/audio/translations", include_in_schema=False)
async def translations() -> Response:
    """Refuse OpenAI's call for translations."""
    raise errors.Refusal(404, "this service transcribes and does not translate", code="unsupported_operation")


def _spool(file: UploadFile) -> IO[bytes]:
    """Open the uploaded bytes on disk, to save memory.  The result outlives `file`, which FastAPI closes with the request."""
    descriptor = os.dup(file.file.fileno())
    file.file.flush()
    return open(descriptor, "rb")


async def _watch(request: Request, job: Job) -> None:
    """Cancel the work when the client disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.gone = True


class Gone(UserError):
    """Error: the client has disconnected, or the service shuts down."""


class Uploads:
    """Places for uploads; each holds one from before its body is read until its text is done.  Used in the event loop."""

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
    """A place of an upload, free again when its request has ended and its thread has finished."""

    def __init__(self, uploads: Uploads):
        self.uploads, self._holders = uploads, 1

    def hold(self) -> None:
        self._holders += 1

    def leave(self) -> None:
        self._holders -= 1
        if not self._holders:
            self.uploads.free += 1


class Job:
    """Transcription of a file in a thread; it begins at once.

    work: `Recognizer.transcribe`.  Set `gone` to end it after the current block.  The file is closed at the end.
    """

    def __init__(self, place: Place, file: IO[bytes], work: Callable[..., Result]):
        self.gone, self._uploads = False, place.uploads
        self._loop, self._found = asyncio.get_running_loop(), asyncio.Queue()
        self._first: Segment | None = None
        place.hold()
        future = place.uploads.pool.submit(work, file, on_segment=self._segment, on_block=self._block)
        future.add_done_callback(lambda _: file.close())
        future.add_done_callback(lambda _: self._call(place.leave))
        self._task = asyncio.wrap_future(future)
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # seen
        self._task.add_done_callback(lambda _: self._found.put_nowait(None))

    async def result(self) -> Result:
        """Wait for the result; raise errors of `transcribe`, or Gone."""
        return await asyncio.shield(self._task)

    async def begun(self) -> None:
        """Wait for the first segment; raise an error of `transcribe` before it."""
        self._first = await self._found.get()
        if self._first is None:
            await self.result()

    async def segments(self) -> AsyncIterator[Segment]:
        """Yield all segments as they are found; call `begun` first."""
        segment = self._first
        while segment is not None:
            yield segment
            segment = await self._found.get()

    def _segment(self, segment: Segment) -> None:
        self._call(self._found.put_nowait, segment)

    def _block(self, _: float) -> None:
        if self.gone or self._uploads.closing:
            raise Gone("request canceled")

    def _call(self, act: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(act, *arguments)


class Events(Response):
    """OpenAI's events: a delta for each finished segment, then the whole text.  The work ends with the response.

    alternatives: not None: each delta has its segment too, with times, words and so many alternatives of each, and the last
    event the duration.
    """

    media_type = "text/event-stream"

    def __init__(self, job: Job, alternatives: int | None = None):
        super().__init__()
        del self.headers["content-length"]
        self.job, self.alternatives = job, alternatives

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
        number = 0
        async for segment in self.job.segments():
            delta: dict[str, Any] = {"type": "transcript.text.delta", "delta": " " * (number > 0) + segment.readable}
            if self.alternatives is not None:
                delta["segment"] = protocol.final(segment, number, True, self.alternatives)
            yield _event(delta)
            number += 1
        try:
            result = await self.job.result()
            more = {} if self.alternatives is None else {"duration": round(result.duration, 3)}
            yield _event({"type": "transcript.text.done", "text": result.readable, **more})
        except UserError as error:
            yield _event({"type": "error", **errors.content(400, str(error))})
        except Exception:
            logger.exception("a file failed")
            yield _event({"type": "error", **errors.content(500, "internal error")})


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def answer(result: Result, name: str, form: str, style: Style, parts: Sequence[str]) -> Response:
    """Make the response in one of OpenAI's formats.  parts: of verbose_json."""
    if form in MEDIA:
        return PlainTextResponse(render(result, name, form, style) + "\n", media_type=MEDIA[form])
    if form == "json":
        return JSONResponse({"text": result.readable})
    verbose: dict[str, Any] = {
        "task": "transcribe",
        "language": "english",
        "duration": round(result.duration, 3),
        **{name: value for name, value in entry(result, style.alternatives).items() if name != "duration"},
    }
    found = zip(verbose["segments"], result.segments, strict=True)
    verbose["segments"] = [segment_entry(i, entry, segment) for i, (entry, segment) in enumerate(found)]
    for part in ("word", "segment"):
        if part not in parts:
            del verbose[f"{part}s"]
    return JSONResponse(verbose)


def segment_entry(number: int, entry: dict[str, Any], segment: Segment) -> dict[str, Any]:
    """Add to a segment's JSON object all fields of OpenAI's, which their clients need.

    avg_logprob: mean over words of the CTC head's log-probability of a unit.  no_speech_prob: 0, because segments that may be
    no speech are withheld.  There are no tokens of a text decoder.
    """
    scores = [word.evidence.log_prob for word in segment.words if word.evidence]
    data = segment.text.encode()
    return {
        "id": number,
        "seek": 0,
        **entry,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sum(scores) / len(scores), 4) if scores else 0.0,
        "compression_ratio": round(len(data) / max(len(zlib.compress(data)), 1), 4),
        "no_speech_prob": 0.0,
    }
