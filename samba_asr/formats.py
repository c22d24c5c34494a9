"""A transcript as text, JSON, SRT or WebVTT."""

from __future__ import annotations

import json
from collections.abc import Iterator

from samba_asr.recognizer import Result, Word

FORMATS = ("text", "json", "srt", "vtt")
PAUSE = 0.8  # seconds of silence that end a subtitle
LONGEST = 5.0  # seconds of a subtitle
SHORTEST = 0.5  # seconds that a subtitle stays, where the next one leaves room


def render(result: Result, name: str, form: str) -> str:
    """The transcript of the audio `name`, without a final newline."""
    if form == "text":
        return result.text
    if form == "json":
        words = [{"word": w.text, "start": w.start, "end": w.end} for w in result.words]
        return json.dumps({"audio": name, "text": result.text, "words": words}, ensure_ascii=False)
    cues = list(subtitles(result.words))
    if form == "srt":
        return "\n\n".join(
            f"{i}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}" for i, (start, end, text) in enumerate(cues, 1)
        )
    if form == "vtt":
        return "\n\n".join(["WEBVTT", *(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{text}" for start, end, text in cues)])
    raise ValueError(f"format {form!r}: one of {', '.join(FORMATS)}")


def subtitles(words: tuple[Word, ...]) -> Iterator[tuple[float, float, str]]:
    """(start, end, text) of each subtitle: cut at pauses and when one grows too long."""
    groups: list[list[Word]] = []
    for word in words:
        last = groups[-1] if groups else None
        if last and word.start - last[-1].end < PAUSE and word.end - last[0].start <= LONGEST:
            last.append(word)
        else:
            groups.append([word])
    for i, group in enumerate(groups):
        end = max(group[-1].end, group[0].start + SHORTEST)
        if i + 1 < len(groups):
            end = max(group[-1].end, min(end, groups[i + 1][0].start))
        yield group[0].start, end, " ".join(w.text for w in group)


def _clock(seconds: float, mark: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"
