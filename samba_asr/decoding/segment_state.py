"""State of a session's segments; `samba_asr.decoding.segmenter` changes it.

s  samples     t  frames     d  channels     v  ids
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.rescore import TwoPassState
from samba_asr.decoding.turns import Signal, TurnFrames


class Heard(NamedTuple):
    """Audio of a session in whole encoder frames, after `gap` frames of missing audio."""

    gap: float
    samples: np.ndarray  # float32 (s,)


class Reading(NamedTuple):
    """How far larger blocks have read a segment (`samba_asr.decoding.larger_blocks`)."""

    samples: int  # of the segment
    encoder: Any  # state after them
    search: TwoPassState  # over the frames of all readings so far
    log_probs: np.ndarray  # (t, v) of the frames that this reading added


@dataclass
class Track:
    """Place of larger blocks in a session's audio."""

    encoder: Any = None  # state where the first segment begins that is not collected; None: where the encoder starts


@dataclass(frozen=True)
class Silence:
    """Possible cut of a segment: search state after `length` frames, of which the last `silent` are silent."""

    state: TwoPassState
    length: int
    silent: int


@dataclass
class SegmentState:
    """State of one session's search; made by `Segmenter.open`."""

    state: TwoPassState  # of one row, over the open segment
    hotwords: Hotwords | None = None
    found: list[SegmentState | Signal] = field(default_factory=list)  # in their order, until `Segmenter.collect`
    begin: float = 0  # frame where the open segment begins; fractional if a gate opened between frames
    frames: list[np.ndarray] = field(default_factory=list)  # of the open segment, (t, d) each
    log_probs: list[np.ndarray] = field(default_factory=list)  # of the same frames, (t, v) each
    length: int = 0  # frames of the open segment
    silent: int = 0  # number of silent frames at its end
    spoken: bool = False  # whether any frame is not silent
    gap: Silence | None = None  # longest silence in the second half of the longest possible segment
    count: int = 0  # frames of finished segments
    missing: dict[int, float] = field(
        default_factory=dict
    )  # frames of missing audio before a frame, counted from the first
    reread: bool = True  # whether a neural language model reads the segments
    turns: TurnFrames | None = None  # None: no signals
    speaking: bool = False  # whether a turn is open
    asked: bool = False  # whether an eager end was due, and only silence came since
    offered: bool = False  # whether it was reported
    voiced: float = 0  # end of the last frame that is not silent; counted as `begin`
    audio: list[Heard] | None = None  # from the open segment's first frame on; None: it is not read again
    readings: list[Reading] = field(default_factory=list)  # of the open segment in larger blocks; copies share it
    ahead: int = 0  # samples of the open segment that are read, or will be by a job
    track: Track = field(default_factory=Track)

    def copy(self) -> SegmentState:
        """Return a copy for `Session.snapshot`; what larger blocks have read is shared, as steps do not change it."""
        lists = {name: list(getattr(self, name)) for name in ("found", "frames", "log_probs")}
        audio = None if self.audio is None else list(self.audio)
        return replace(self, missing=dict(self.missing), audio=audio, **lists)

    def elapsed(self, frame: int) -> float:
        """Return the frames from `begin` to the start of a frame of the open segment, with the missing ones between them."""
        if not self.missing:
            return frame
        return frame + sum(gap for at, gap in self.missing.items() if at <= self.count + frame)

    def until(self, frames: int) -> float:
        """Return the frames from `begin` to the end of `frames` frames of the open segment."""
        return self.elapsed(frames - 1) + 1 if frames else 0
