"""Transcription of many files: rows in, rows out, for manifests and for engines such as Ray Data.

A row in has `audio` (a path, an address in a shard, or the bytes of a file), and optionally `id`, `start` and `duration` in
seconds.  A row out has

    id, audio           as given; audio is "" where bytes were given
    text                the transcript, in its written form (punctuation, case, digits) unless the spoken one is wanted
    spoken, words       its spoken form, and the words of it with start, end (seconds from the row's start), confidence
    duration            seconds of audio
    confidence          mean over the words, 0.0 without words
    error               "" or why the file could not be read; of a damaged file, the text before the damage is there too

No engine is imported here: what starts processes and moves data is the caller's (recipes/archive.py).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from samba_asr.audio.read import stream
from samba_asr.data.manifest import id_of
from samba_asr.errors import UserError
from samba_asr.many import attempt, in_threads
from samba_asr.recognizer import Recognizer
from samba_asr.result import Result
from samba_asr.text.written.form import AHEAD

Row = Mapping[str, Any]


class Transcriber:
    """A recognizer as a callable on rows.  It is loaded once, so an engine makes one for each worker."""

    def __init__(
        self,
        model: str | os.PathLike | None = None,
        settings: Sequence[str] = (),
        *,
        device: str = "auto",
        text: str = "written",
    ):
        """model, settings, device: as for `Recognizer.load`.  text: written or spoken, the form of `text` in rows."""
        self.options = {"text": text}
        self.recognizer = Recognizer.load(model if model is None else str(model), device=device, settings=settings)

    def __call__(self, rows: Iterable[Row]) -> list[dict[str, Any]]:
        """Transcribe rows one after another."""
        return [transcribe_row(self.recognizer, row, **self.options) for row in rows]


def transcribe_row(recognizer: Recognizer, row: Row, **options: Any) -> dict[str, Any]:
    """Transcribe one row.  An error that the user can fix is written into the row's `error`, and not raised.

    options: latency_ms, text, digits of `Recognizer.transcribe`.
    """
    audio = row.get("audio")
    named = audio if isinstance(audio, str) else ""
    result, error = attempt(named, lambda: _transcribed(recognizer, row, options))
    words = result.words if result else ()
    return {
        "id": str(row.get("id") or (id_of(named) if named else "")),
        "audio": named,
        "text": result.readable if result else "",
        "spoken": result.text if result else "",
        "words": [word.entry() for word in words],
        "duration": round(result.duration, 3) if result else 0.0,
        "confidence": round(sum(word.confidence for word in words) / len(words), 4) if words else 0.0,
        "error": error,
    }


def _transcribed(recognizer: Recognizer, row: Row, options: Mapping[str, Any]) -> Result:
    """Transcribe the part of a file that the row names, in constant memory."""
    if not row.get("audio"):
        raise UserError("no `audio`: give a path, or the bytes of a file")
    pieces = stream(row["audio"], start=row.get("start") or 0.0, duration=row.get("duration"))
    first = next(pieces)
    samples = itertools.chain([first.samples], (piece.samples for piece in pieces))
    return recognizer.transcribe(samples, rate=first.rate, ahead=AHEAD, **options)


def transcribe_many(
    recognizer: Recognizer, rows: Sequence[Row], *, jobs: int = 1, **options: Any
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (position, row) as files are done, the longest first, `jobs` at a time (`samba_asr.many.in_threads`).

    options: as for `transcribe_row`.  UserError for jobs below 1.
    """
    order = sorted(range(len(rows)), key=lambda i: -(rows[i].get("duration") or float("inf")))
    found = in_threads(lambda i: transcribe_row(recognizer, rows[i], **options), order, jobs)
    yield from ((order[n], row) for n, row in found)
