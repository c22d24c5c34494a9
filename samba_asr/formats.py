"""Output formats of a transcript: text, JSON, subtitles (SRT, WebVTT), NIST's CTM, Praat's TextGrid.

`render` takes the transcript of a file, `render_channels` those of its channels, as in a telephone call, `render_subtitles` any
words with times.  The text is the
written form where the transcript has it, except in CTM and TextGrid, which hold what was said.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from samba_asr.decoding.transcript import Segment, Word, WrittenWord
from samba_asr.errors import printable
from samba_asr.result import Result
from samba_asr.subtitles import Cue, Layout, Timed, subtitles

FORMATS = ("text", "json", "srt", "vtt", "ctm", "textgrid")
SUFFIXES = {"text": "txt", "textgrid": "TextGrid"}  # of files, where not the name of the format
SPOKEN = ("ctm", "textgrid")  # formats of the spoken form, if no other is asked for


@dataclass(frozen=True)
class Style:
    """Choices of a user.

    text: "written" or "spoken"; "": as fits the format.  layout: of subtitles.  word_timestamps: mark each word's start, in vtt.
    alternatives: of a word, in JSON, at most so many.
    """

    text: str = ""
    layout: Layout = Layout()  # noqa: RUF009 (frozen)
    word_timestamps: bool = False
    alternatives: int = 0

    def form_of(self, result: Result, form: str) -> Result:
        """Return the transcript without its written form if the spoken one is wanted."""
        if self.text != "spoken" and (self.text or form not in SPOKEN):
            return result
        return replace(result, segments=tuple(replace(segment, written=None) for segment in result.segments))


def render(result: Result, name: str, form: str, style: Style | None = None) -> str:
    """Render the transcript of the audio `name` in one of FORMATS, without a final newline."""
    style = style or Style()
    result = style.form_of(result, form)
    if form == "text":
        return result.readable
    if form == "json":
        return json.dumps({"audio": name, **entry(result, style.alternatives)}, ensure_ascii=False)
    if form == "ctm":
        return "\n".join(_ctm(name, 1, word) for word in _words(result))
    if form == "textgrid":
        return _textgrid({"words": result})
    return render_subtitles(_words(result), form, style)


def render_subtitles(words: Sequence[Timed], form: str, style: Style | None = None) -> str:
    """Render words in order of time as subtitles, "srt" or "vtt", without a final newline."""
    style = style or Style()
    return _cues([(cue, "") for cue in subtitles(words, style.layout)], form, style)


def render_channels(results: Sequence[Result], name: str, form: str, style: Style | None = None) -> str:
    """Render the transcripts of a file's channels, numbered from 1, in one of FORMATS, without a final newline.

    Segments of all channels stand in the order of their times; CTM has one channel after the other, as NIST orders it.
    """
    style = style or Style()
    numbered = [(n, style.form_of(result, form)) for n, result in enumerate(results, 1)]
    segments = sorted(
        ((segment, n) for n, result in numbered for segment in result.segments), key=lambda found: found[0].start
    )
    if form == "text":
        return "\n".join(f"{n}: {segment.readable}" for segment, n in segments)
    if form == "json":
        found = {
            "audio": name,
            "channels": len(results),
            "text": " ".join(segment.readable for segment, _ in segments),
            "segments": [{"channel": n, **_segment(s)} for s, n in segments],
            "words": [
                {"channel": n, **w.entry(style.alternatives)} for s, n in segments for w in (s.written or s).words
            ],
            "duration": max((result.duration for result in results), default=0.0),
        }
        if any(segment.written for segment, _ in segments):
            words = [{"channel": n, **word.entry(style.alternatives)} for s, n in segments for word in s.words]
            found["spoken"] = {"text": " ".join(segment.text for segment, _ in segments), "words": words}
        return json.dumps(found, ensure_ascii=False)
    if form == "ctm":
        return "\n".join(_ctm(name, n, word) for n, result in numbered for word in _words(result))
    if form == "textgrid":
        return _textgrid({f"channel {n}": result for n, result in numbered})
    cues = [(cue, n) for n, result in numbered for cue in subtitles(_words(result), style.layout)]
    mark = "[{}] " if form == "srt" else "<v channel {}>"
    ordered = sorted(cues, key=lambda found: (found[0].start, found[0].end, found[1]))
    return _cues([(cue, mark.format(n)) for cue, n in ordered], form, style)


def entry(result: Result, alternatives: int = 0) -> dict[str, Any]:
    """Return the JSON object of a transcript.  With a written form, the spoken one stands under `spoken`.

    alternatives: of a word, at most so many.
    """
    words, spoken = ([word.entry(alternatives) for word in some] for some in (_words(result), result.words))
    found: dict[str, Any] = {
        "text": result.readable,
        "segments": [_segment(segment) for segment in result.segments],
        "words": words,
        "duration": result.duration,
    }
    return {**found, "spoken": {"text": result.text, "words": spoken}} if result.written else found


def _segment(segment: Segment) -> dict[str, Any]:
    found = {"text": segment.readable, "start": segment.start, "end": segment.end}
    return {**found, "spoken": segment.text} if segment.written else found


def _words(result: Result) -> Sequence[Word | WrittenWord]:
    return result.written or result.words


def _cues(cues: Sequence[tuple[Cue, str]], form: str, style: Style) -> str:
    """Render subtitles, each with a mark before its text."""
    if form == "srt":
        return "\n\n".join(
            f"{i}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{mark}{cue.text}"
            for i, (cue, mark) in enumerate(cues, 1)
        )
    if form == "vtt":
        text = _timed if style.word_timestamps else lambda cue: escape(cue.text, quote=False)
        return "\n\n".join(
            ["WEBVTT", *(f"{_clock(c.start, '.')} --> {_clock(c.end, '.')}\n{mark}{text(c)}" for c, mark in cues)]
        )
    raise ValueError(f"format {form!r}: one of {', '.join(FORMATS)}")


def _timed(cue: Cue) -> str:
    """Return the text of a WebVTT cue with the start of each word but the first, in order and inside the cue."""
    lines, at = [], cue.start
    for line in cue.lines:
        parts = []
        for word in line:
            inside = round(at, 3) < round(word.start, 3) < round(cue.end, 3)
            at = max(at, word.start)
            parts.append((f"<{_clock(word.start, '.')}>" if inside else "") + escape(word.text, quote=False))
        lines.append(" ".join(parts))
    return "\n".join(lines)


def _ctm(name: str, channel: int, word: Word | WrittenWord) -> str:
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
    words, intervals, at = _words(result), [], 0.0
    for i, word in enumerate(words):
        until = min([word.end, *(w.start for w in words[i + 1 : i + 2])])
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
