"""Subtitles as people make them: few words a line, breaks at marks and pauses, and time to read each.

    for cue in subtitles(result.written or result.words, Layout(max_line_width=42)): cue.start, cue.end, cue.lines

Words are cut into cues by dynamic programming over the cost of each cue, as D. Knuth and M. Plass (1981) cut paragraphs into
lines.  A cue costs less if it ends with a sentence, a clause or a pause, can be read in its time, and holds no long pause.  The
limits of its lines and of its duration are hard, except for a single word.  The defaults are those of broadcasters: two lines of
42 characters, 17 characters a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from samba_asr.errors import UserError

PAUSE = 0.8  # seconds within a cue that cost something
SILENCE = 2.0  # seconds that no cue holds
_GAP = 1e-6


class Timed(Protocol):
    """A word with times, in seconds."""

    @property
    def text(self) -> str: ...

    @property
    def start(self) -> float: ...

    @property
    def end(self) -> float: ...


@dataclass(frozen=True)
class Layout:
    """Limits of subtitles.

    max_line_width: characters of a line.  max_lines: lines of a cue.  max_cps: characters a second that people can read.
    min_duration, max_duration: seconds of a cue.  UserError for limits that no cue can keep.
    """

    max_line_width: int = 42
    max_lines: int = 2
    max_cps: float = 17.0
    min_duration: float = 1.0
    max_duration: float = 7.0

    def __post_init__(self):
        for name in ("max_line_width", "max_lines", "max_cps", "min_duration", "max_duration"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UserError(f"subtitles: {name.replace('_', '-')} {value:g}: give a number above 0")
        if self.min_duration > self.max_duration:
            raise UserError(
                f"subtitles: min-duration {self.min_duration:g} is above max-duration {self.max_duration:g}: "
                "give a smaller one"
            )


@dataclass(frozen=True)
class Cue:
    """A subtitle.  start, end: seconds.  lines: its words, line by line."""

    start: float
    end: float
    lines: tuple[tuple[Timed, ...], ...]

    @property
    def text(self) -> str:
        return "\n".join(" ".join(word.text for word in line) for line in self.lines)


def subtitles(words: Sequence[Timed], layout: Layout | None = None) -> Iterator[Cue]:
    """Yield the subtitles of words in order of time; they never overlap."""
    layout = layout or Layout()
    groups = []
    begin = 0
    for i in range(1, len(words) + 1):  # a long silence ends a cue in any case, so its sides are cut independently
        if i == len(words) or words[i].start - words[i - 1].end >= SILENCE:
            groups += [words[begin + a : begin + b] for a, b in _cut(words[begin:i], layout)]
            begin = i
    for i, group in enumerate(groups):
        start, end = group[0].start, max(word.end for word in group)
        upcoming = groups[i + 1][0].start if i + 1 < len(groups) else float("inf")
        wanted = max(layout.min_duration, _length(group) / layout.max_cps)
        end = max(end, min(start + min(wanted, layout.max_duration), upcoming))
        yield Cue(start, max(start, min(end, upcoming)), _lines(group, layout))


def _cut(words: Sequence[Timed], layout: Layout) -> list[tuple[int, int]]:
    """Return (start, end) of the cues of words without a long silence, at the least cost."""
    best: list[tuple[float, int]] = [(0.0, 0)]  # for the words before i: cost, and where the last cue begins
    for i in range(1, len(words) + 1):
        found = (float("inf"), i - 1)
        upcoming = words[i].start if i < len(words) else None
        for k, length, within in _cues_before(words, i, layout):
            cost = best[k][0] + within + _cost(words[k], words[i - 1], length, upcoming, layout)
            if cost < found[0] - _GAP:
                found = (cost, k)
        best.append(found)
    cuts, i = [], len(words)
    while i:
        cuts.append((best[i][1], i))
        i = best[i][1]
    return cuts[::-1]


def _cues_before(words: Sequence[Timed], i: int, layout: Layout) -> Iterator[tuple[int, int, float]]:
    """Yield the cues words[k:i] that keep the hard limits: k, characters, and the cost of what stands within."""
    width = layout.max_line_width * layout.max_lines
    length, longest, within = -1, 0, 0.0
    for k in range(i - 1, -1, -1):
        size = len(words[k].text)
        length, longest = length + size + 1, max(longest, size)
        if k < i - 1:
            if _boundary(words[k].text) == "sentence":
                within += 0.5
            within += 2.0 * max(0.0, words[k + 1].start - words[k].end - PAUSE / 2)
            if length > width or words[i - 1].end - words[k].start > layout.max_duration:
                return
            surely = length + longest * (layout.max_lines - 1) <= width  # a line ends at most one word before its limit
            if not surely and not _fits(words[k:i], layout):
                return
        yield k, length, within


def _cost(first: Timed, last: Timed, length: int, upcoming: float | None, layout: Layout) -> float:
    """Return the cost of a cue, without what stands within.  upcoming: start of the word after it; None if there is none soon."""
    pause = SILENCE if upcoming is None else upcoming - last.end
    end = {"sentence": 0.0, "clause": 0.4, "": 1.6}[_boundary(last.text)] * (0.3 if pause >= PAUSE else 1.0)
    cost = 1.0 + end  # 1: few cues
    room = last.end + pause - first.start  # seconds that the cue can be shown
    wanted = max(layout.min_duration, length / layout.max_cps)
    if room < wanted:
        cost += 3.0 * (wanted / max(room, 0.05) - 1)
    return cost


def _boundary(text: str) -> str:
    if text.rstrip("\"')").endswith((".", "?", "!")):
        return "sentence"
    return "clause" if text.endswith((",", ";", ":", "—")) else ""


def _length(words: Sequence[Timed]) -> int:
    return sum(len(word.text) for word in words) + len(words) - 1


def _fits(words: Sequence[Timed], layout: Layout) -> bool:
    """Return whether the words fit the lines of a cue."""
    lines, used = 1, -1
    for word in words:
        if used + 1 + len(word.text) > layout.max_line_width and used >= 0:
            lines, used = lines + 1, -1
        used += 1 + len(word.text)
    return lines <= layout.max_lines


def _lines(words: Sequence[Timed], layout: Layout) -> tuple[tuple[Timed, ...], ...]:
    """Break a cue into as few lines as possible, of similar lengths, after a mark if there is one."""
    if _length(words) <= layout.max_line_width:
        return (tuple(words),)
    n = len(words)
    best: list[tuple[int, float, int]] = [
        (0, 0.0, 0)
    ]  # for the words before i: lines, cost, where the last line begins
    for i in range(1, n + 1):
        found = None
        for k in range(i - 1, -1, -1):
            length = _length(words[k:i])
            if length > layout.max_line_width and i - k > 1:
                break
            cost = (length / layout.max_line_width) ** 2
            if i < n:
                cost += {"sentence": 0.0, "clause": 0.05, "": 0.25}[_boundary(words[i - 1].text)]
            option = (best[k][0] + 1, best[k][1] + cost, k)
            if found is None or option < found:
                found = option
        assert found is not None
        best.append(found)
    lines, i = [], n
    while i:
        k = best[i][2]
        lines.append(tuple(words[k:i]))
        i = k
    return tuple(reversed(lines))
