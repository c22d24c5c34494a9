"""Result: the text of audio, collected from the events of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from samba_asr.audio.source import Truncated
from samba_asr.decoding.transcript import Segment, Word, WrittenWord
from samba_asr.session import Done, Event, Final, Quiet


@dataclass(frozen=True)
class Result:
    """Text of audio, in segments.  `text` and `words` join those of the segments."""

    segments: tuple[Segment, ...]
    duration: float  # seconds of audio received
    withheld: int = 0  # words dropped for low confidence (decode.endpoint.confidence)

    @classmethod
    def of(cls, events: Iterable[Event], on_segment: Callable[[Segment], None] = lambda segment: None) -> Result:
        """Collect a session's events.  on_segment: called with each segment.  A `Truncated` error has the result so far."""
        segments, duration, withheld = [], 0.0, 0
        try:
            for event in events:
                if isinstance(event, Final):
                    segments.append(event.segment)
                    on_segment(event.segment)
                elif isinstance(event, Done):
                    duration = event.seconds
                elif isinstance(event, Quiet):
                    withheld += event.withheld
        except Truncated as error:
            error.result = cls(tuple(segments), duration, withheld)
            raise
        return cls(tuple(segments), duration, withheld)

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{n} {name}{'s' * (n != 1)}" for n, name in ((len(self.segments), "segment"), (len(self.words), "word"))
        )
        withheld = f", {self.withheld} withheld" if self.withheld else ""
        text = self.text if len(self.text) < 60 else f"{self.text[:57]}..."
        return f"Result({text!r}, {counts}{withheld}, {self.duration:.1f} s)"

    @property
    def text(self) -> str:
        """The spoken form, which is what is scored."""
        return " ".join(segment.text for segment in self.segments)

    @property
    def readable(self) -> str:
        """The written form, if it was asked for; else the spoken form."""
        return " ".join(segment.readable for segment in self.segments)

    @property
    def written(self) -> tuple[WrittenWord, ...]:
        """The words of the written form; empty if it was not asked for."""
        return tuple(word for segment in self.segments if segment.written for word in segment.written.words)

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)


class Transcribed(NamedTuple):
    """One of many files, and what became of it (`Recognizer.transcribe_many`)."""

    file: Any  # as given: a path, or the bytes of a file
    result: Result | None  # None if it cannot be read; of a damaged file, the part before the damage
    error: str  # "" or why it could not be read
