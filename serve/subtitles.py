"""`POST /v1/subtitles`: words with times in, SRT or WebVTT out, by the rules of `samba_asr.subtitles`.

The page sends words that a person may have corrected, so its files have the same lines as those of `samba-asr transcribe`.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from samba_asr.errors import UserError
from samba_asr.formats import Style, render_subtitles
from samba_asr.serve import errors
from samba_asr.subtitles import Layout

MOST_WORDS = 50_000  # five hours of speech
MOST_BYTES = 8 << 20
MEDIA = {"srt": "application/x-subrip", "vtt": "text/vtt"}

router = APIRouter()
one_at_a_time = asyncio.Lock()  # it is Python that computes, and live sessions need the interpreter too

Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class TimedWord(BaseModel):
    """A word as it is shown."""

    model_config = ConfigDict(strict=True)  # as the documented schema: no "1.5" for a number, no 0 for false

    text: str = Field(alias="word", min_length=1, max_length=200)
    start: Seconds = Field(description="seconds")
    end: Seconds = Field(description="seconds")


class Wanted(BaseModel):
    """Words to show, and the limits of the subtitles."""

    model_config = ConfigDict(extra="forbid", strict=True)

    words: list[TimedWord] = Field(max_length=MOST_WORDS, description="in order of time")
    format: Literal["srt", "vtt"] = "srt"
    max_line_width: int = Field(default=42, ge=1, le=60, description="characters of a line")
    max_lines: int = Field(default=2, ge=1, le=3, description="lines")
    max_cps: float = Field(default=17.0, gt=0, le=1000, description="characters a second that people can read")
    min_duration: float = Field(default=1.0, gt=0, le=60, description="seconds, if the next one leaves the time")
    max_duration: float = Field(default=7.0, gt=0, le=60, description="seconds")
    word_timestamps: bool = Field(default=False, description="vtt: mark the start of each word")


@router.post(
    "/v1/subtitles",
    response_class=Response,
    responses={
        200: {
            "description": "the subtitles",
            "content": {media: {"schema": {"type": "string"}} for media in MEDIA.values()},
        },
        **errors.documented(errors.DETAIL, *errors.ASKED),
    },
)
async def subtitles(request: Request, wanted: Wanted) -> Response:
    """Cut words into subtitles: few words a line, breaks at marks and pauses, and time to read each."""
    try:
        layout = Layout(
            wanted.max_line_width, wanted.max_lines, wanted.max_cps, wanted.min_duration, wanted.max_duration
        )
    except UserError as error:
        raise errors.Refusal(400, str(error)) from None
    if one_at_a_time.locked():
        retry = str(request.app.state.settings.retry_seconds)
        raise errors.Refusal(503, "other subtitles are being made", headers={"Retry-After": retry})
    words = sorted(wanted.words, key=lambda word: word.start)
    style = Style(layout=layout, word_timestamps=wanted.word_timestamps)
    async with one_at_a_time:
        text = await asyncio.to_thread(render_subtitles, words, wanted.format, style)
    return PlainTextResponse(text + "\n", media_type=MEDIA[wanted.format])
