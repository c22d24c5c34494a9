"""Durations and rates of utterances, from the headers of their audio files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from samba_asr.audio.read import AudioError, AudioInfo, info, stream
from samba_asr.data.manifest import Utterance

Headers = dict[str, AudioInfo | AudioError]  # audio path -> its header, or why it cannot be read
Progress = Callable[[int, int], None]  # (files done, files in total)


def read_headers(
    utterances: Iterable[Utterance],
    *,
    decode: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Headers:
    """Read the header of every audio file of the utterances, each once, in `workers` threads (None: one per processor).

    decode: read all samples too, which finds damage that headers do not show.  progress: called from the calling thread.
    """
    paths = sorted({utterance.audio for utterance in utterances})

    def look(path: str) -> AudioInfo | AudioError:
        try:
            header = info(path)
            return replace(header, duration=sum(piece.duration for piece in stream(path))) if decode else header
        except AudioError as error:
            return error

    headers: Headers = {}
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for path, header in zip(paths, pool.map(look, paths), strict=True):
            headers[path] = header
            if progress:
                progress(len(headers), len(paths))
    return headers


def with_durations(
    utterances: Iterable[Utterance],
    *,
    headers: Headers | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Utterance]:
    """Fill in the `duration` and `rate` of utterances that lack one.

    A given duration (of a segment) is kept; an open one becomes the rest of the file after `start`.
    headers: result of `read_headers`; utterances with unreadable headers are returned unchanged.  Without it the headers
    are read here, and the first unreadable one raises its AudioError.
    """
    utterances = list(utterances)
    given = headers is not None
    if headers is None:
        open_ones = (u for u in utterances if u.duration is None or u.rate is None)
        headers = read_headers(open_ones, workers=workers, progress=progress)

    def filled(utterance: Utterance) -> Utterance:
        header = headers.get(utterance.audio)
        if isinstance(header, AudioError):
            if given:
                return utterance
            raise header
        if header is None:
            return utterance
        duration = max(0.0, header.duration - utterance.start) if utterance.duration is None else utterance.duration
        return replace(utterance, duration=round(duration, 6), rate=header.rate)

    return [filled(utterance) for utterance in utterances]
