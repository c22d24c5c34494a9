"""Output formats of a transcript: text, JSON, subtitles (SRT, WebVTT), NIST's CTM, Praat's TextGrid.

`render` takes the transcript of a file, `render_channels` those of its channels, as in a telephone call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from samba_asr.decoding.transcript import Word
from samba_asr.errors import printable
from samba_asr.recognizer import Result

FORMATS = ("text", "json", "srt", "vtt", "ctm", "textgrid")
SUFFIXES = {"text": "txt", "textgrid": "TextGrid"}  # of files, where not the name of the format
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
        return "\n".join(_ctm(name, 1, word) for word in result.words)
    if form == "textgrid":
        return _textgrid({"words": result})
    return _cues(list(subtitles(result.words)), form)


def render_channels(results: Sequence[Result], name: str, form: str) -> str:
    """Render the transcripts of a file's channels, numbered from 1, in one of FORMATS, without a final newline.

    Segments of all channels stand in the order of their times; CTM has one channel after the other, as NIST orders it.
    """
    numbered = [(n, result) for n, result in enumerate(results, 1)]
    segments = sorted(
        ((segment, n) for n, result in numbered for segment in result.segments), key=lambda found: found[0].start
    )
    if form == "text":
        return "\n".join(f"{n}: {segment.text}" for segment, n in segments)
    if form == "json":
        entry = {
            "audio": name,
            "channels": len(results),
            "text": " ".join(segment.text for segment, _ in segments),
            "segments": [{"channel": n, "text": s.text, "start": s.start, "end": s.end} for s, n in segments],
            "words": [{"channel": n, **word.entry()} for s, n in segments for word in s.words],
            "duration": max((result.duration for result in results), default=0.0),
        }
        return json.dumps(entry, ensure_ascii=False)
    if form == "ctm":
        return "\n".join(_ctm(name, n, word) for n, result in numbered for word in result.words)
    if form == "textgrid":
        return _textgrid({f"channel {n}": result for n, result in numbered})
    cues = sorted((cue, n) for n, result in numbered for cue in subtitles(result.words))
    mark = "[{}] {}" if form == "srt" else "<v channel {}>{}"
    return _cues([(start, end, mark.format(n, text)) for (start, end, text), n in cues], form)


def _cues(cues: Sequence[tuple[float, float, str]], form: str) -> str:
    """Render subtitles (start, end, text)."""
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


def _ctm(name: str, channel: int, word: Word) -> str:
    """Return one line of six fields without blanks: file, channel, start, duration, word, confidence."""
    name = "_".join(Path(name).stem.split()) or "_"
    text = "_".join(word.text.split()) or "_"
    return f"{printable(name)} {channel} {word.start:.3f} {word.end - word.start:.3f} {text} {word.confidence:.2f}"


def _textgrid(tiers: dict[str, Result]) -> str:
    """Return a tier of words for each result, with empty intervals between words."""
    end = max([time for result in tiers.values() for time in (result.duration, *(w.end for w in result.words))])
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", f"{end:.3f}", "<exists>", str(len(tiers))]
    return "\n".join([*head, *(line for name, result in tiers.items() for line in _tier(name, result, end))])


def _tier(name: str, result: Result, end: float) -> list[str]:
    """Return the lines of one tier.  Its intervals touch but never overlap."""
    intervals, at = [], 0.0
    for i, word in enumerate(result.words):
        until = min([word.end, *(w.start for w in result.words[i + 1 : i + 2])])
        if word.start > at:
            intervals.append((at, word.start, ""))
        intervals.append((word.start, until, word.text))
        at = until
    if at < end or not intervals:
        intervals.append((at, end, ""))
    tier = ['"IntervalTier"', f'"{name}"', "0", f"{end:.3f}", str(len(intervals))]
    quoted = lambda text: '"' + text.replace('"', '""') + '"'  # noqa: E731
    lines = [line for begin, until, text in intervals for line in (f"{begin:.3f}", f"{until:.3f}", quoted(text))]
    return [*tier, *lines]


def _clock(seconds: float, mark: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"
