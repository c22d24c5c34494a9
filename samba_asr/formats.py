"""Output formats of a transcript: text, JSON, subtitles (SRT, WebVTT), NIST's CTM, Praat's TextGrid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from samba_asr.decoding.transcript import Word
from samba_asr.errors import printable
from samba_asr.recognizer import Result

FORMATS = ("text", "json", "srt", "vtt", "ctm", "textgrid")
PAUSE = 0.8  # seconds of silence that end a subtitle
LONGEST = 5.0  # seconds, maximum duration of a subtitle
SHORTEST = 0.5  # seconds, minimum duration of a subtitle, unless the next one starts earlier


def render(result: Result, name: str, form: str) -> str:
    """Render the transcript of the audio `name` in one of FORMATS, without a final newline."""
    if form == "text":
        return result.text
    if form == "json":
        words = [word.entry() for word in result.words]
        segments = [{"text": s.text, "start": s.start, "end": s.end} for s in result.segments]
        entry = {"audio": name, "text": result.text, "segments": segments, "words": words, "duration": result.duration}
        return json.dumps(entry, ensure_ascii=False)
    if form == "ctm":
        return "\n".join(_ctm("_".join(Path(name).stem.split()) or "_", word) for word in result.words)
    if form == "textgrid":
        return _textgrid(result)
    cues = list(subtitles(result.words))
    if form == "srt":
        return "\n\n".join(
            f"{i}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}" for i, (start, end, text) in enumerate(cues, 1)
        )
    if form == "vtt":
        return "\n\n".join(
            ["WEBVTT", *(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{text}" for start, end, text in cues)]
        )
    raise ValueError(f"format {form!r}: one of {', '.join(FORMATS)}")


def subtitles(words: tuple[Word, ...]) -> Iterator[tuple[float, float, str]]:
    """Yield (start, end, text) of each subtitle, in seconds.  A subtitle ends at a pause, or when it gets too long."""
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


def _ctm(name: str, word: Word) -> str:
    """Return one line of six fields without blanks: file, channel, start, duration, word, confidence."""
    text = "_".join(word.text.split()) or "_"
    return f"{printable(name)} 1 {word.start:.3f} {word.end - word.start:.3f} {text} {word.confidence:.2f}"


def _textgrid(result: Result) -> str:
    """Return one tier of words, with empty intervals between them.  Intervals of a TextGrid touch but never overlap."""
    end = max([result.duration, *(w.end for w in result.words)])
    intervals, at = [], 0.0
    for i, word in enumerate(result.words):
        until = min([word.end, *(w.start for w in result.words[i + 1 : i + 2])])
        if word.start > at:
            intervals.append((at, word.start, ""))
        intervals.append((word.start, until, word.text))
        at = until
    if at < end or not intervals:
        intervals.append((at, end, ""))
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", f"{end:.3f}", "<exists>", "1"]
    tier = ['"IntervalTier"', '"words"', "0", f"{end:.3f}", str(len(intervals))]
    quoted = lambda text: '"' + text.replace('"', '""') + '"'  # noqa: E731
    lines = [line for begin, until, text in intervals for line in (f"{begin:.3f}", f"{until:.3f}", quoted(text))]
    return "\n".join([*head, *tier, *lines])


def _clock(seconds: float, mark: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"
