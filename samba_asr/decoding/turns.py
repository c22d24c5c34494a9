"""Turns of speech: when one begins, may be over, goes on, and is over; for programs that answer.

    SpeechStarted(at)          a turn begins
    EagerEnd(segment)          silence of `eager` seconds: the turn may be over, and this is its last segment so far
    TurnResumed(at)            it was not: the segment of the eager end is void
    TurnEnded(at, until)       silence of `end` seconds, a flush or the end of the audio; the segments came before it

A turn begins with the first frame whose most probable unit is not blank, and silence is frames of blank, as in the rules of
`samba_asr.decoding.segmenter`.  So a noise may begin a turn; then it ends without a segment.  A segment that ends because it is
too long ends no turn; where the gate of `decode.vad` closes, or a second of audio is missing, a turn ends.
The text of an eager end comes from the live blocks at once; the final one may differ, where it comes from larger blocks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.decoding.transcript import Segment

LONGEST = 10.0  # seconds of silence that a rule may ask for


class TurnFrames(NamedTuple):
    """Silences after words, in frames."""

    eager: float
    end: int


class TurnRules(NamedTuple):
    """Silences after words, in seconds."""

    eager: float = math.inf  # silence of an eager end; infinite: none is reported
    end: float | None = None  # silence that ends a turn and its segment; None: decode.endpoint.pause

    def in_frames(self, frame: float, pause: int) -> TurnFrames:
        """Convert to frames of `frame` seconds.  pause: frames, the default of `end`.

        UserError for a silence of less than a frame or more than `LONGEST`.
        """
        eager = math.inf if self.eager == math.inf else _frames("eager", self.eager, frame)
        return TurnFrames(eager, pause if self.end is None else _frames("end", self.end, frame))


def _frames(name: str, seconds: float, frame: float) -> int:
    if not frame <= seconds <= LONGEST:
        raise UserError(f"{name}_ms={1000 * seconds:g}: give {1000 * frame:g} to {1000 * LONGEST:g} ms of silence")
    return round(seconds / frame)


class SpeechStarted(NamedTuple):
    """A turn begins."""

    at: float  # seconds


class EagerEnd(NamedTuple):
    """The turn may be over."""

    segment: Segment  # the open segment, as if the audio ended here


class TurnResumed(NamedTuple):
    """Speech goes on after an `EagerEnd`."""

    at: float  # seconds


class TurnEnded(NamedTuple):
    """The turn is over."""

    at: float  # seconds: the end of its last sound
    until: float  # seconds: where that became known


Signal = SpeechStarted | EagerEnd | TurnResumed | TurnEnded

BIAS, SLOPE = -1.92, 2.40
"""Logistic regression on silence alone, fitted to the sentences of dev-5h, each followed by 3 s of silence, and to the pauses
within them (egs/bench/RESULTS.md, "Ends of turn").  So it holds for read turns of some 13 s with four pauses, and for no single
reader: after 0.8 s and more a hasty one is done with 0.79 and a slow one with 0.45.  The n-gram's probability of a sentence end
and the punctuation network's of a full stop say next to nothing there (AUC 0.55 and 0.53), so they are left out."""


def probability(silence: float) -> float:
    """Return the probability that a turn is over after `silence` seconds without a sound."""
    return 1 / (1 + math.exp(-BIAS - SLOPE * silence))
