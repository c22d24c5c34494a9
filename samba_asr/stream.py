"""Stream: one session for one caller, who pushes audio and reads text.

with recognizer.stream(rate=48000, latency_ms=640) as stream:
    for samples in microphone:              # float32 (s,) in [-1, 1], any length
        stream.accept(samples)
        print(stream.partial)
print(stream.finish().text)
"""

from __future__ import annotations

import numpy as np

from samba_asr.decoding.transcript import Segment
from samba_asr.result import Result
from samba_asr.session import Final, Parts, Quiet, Session
from samba_asr.steps import events


class Stream:
    """Session that computes as it receives audio: `accept` audio, read `partial` and `segments`, and `finish` once."""

    def __init__(self, parts: Parts, session: Session):
        self._parts, self._session = parts, session
        self._segments: list[Segment] = []
        self._withheld = 0  # words
        self._result: Result | None = None

    def __repr__(self) -> str:
        state = "finished" if self._result else f"partial {self.partial!r}"
        return f"Stream({len(self._segments)} segments, {state}, {self.seconds:.1f} s)"

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the stream, so that `finish` returns its result; after an error its audio is dropped."""
        if kind is None:
            self.finish()
        else:
            self._session.drop()

    def accept(self, samples: np.ndarray) -> None:
        """Process the next chunk: float32 (s,) in [-1, 1], any length.  UserError, without effect, if a sample is not finite."""
        if self._result is not None:
            raise RuntimeError("accept after finish: the session has ended, make a new stream")
        self._session.feed(samples)
        self._advance()

    def gap(self, seconds: float) -> None:
        """Say that the next `seconds` of audio are missing (`Session.gap`).  UserError unless 0 <= seconds <= 3600."""
        if self._result is not None:
            raise RuntimeError("gap after finish: the session has ended, make a new stream")
        self._session.gap(seconds)
        self._advance()

    @property
    def seconds(self) -> float:
        """Seconds of audio received, with what is missing."""
        return self._session.seconds

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Finished segments, with the second pass."""
        return tuple(self._segments)

    @property
    def partial(self) -> str:
        """Text of the open segment, by the first pass; its end may still change."""
        return "" if self._result else self._parts.segmenter.text(self._session.search)

    @property
    def stable(self) -> str:
        """Beginning of `partial` that will not change while the segment is open, in whole words."""
        return "" if self._result else self._parts.segmenter.stable(self._session.search)

    def finish(self) -> Result:
        """End the audio and return the result.  A second call returns the same."""
        if self._result is None:
            self._session.end()
            self._advance()
            self._result = Result(tuple(self._segments), self._session.seconds, self._withheld)
        return self._result

    def _advance(self) -> None:
        for event in events(self._parts, self._session):
            if isinstance(event, Final):
                self._segments.append(event.segment)
            elif isinstance(event, Quiet):
                self._withheld += event.withheld
