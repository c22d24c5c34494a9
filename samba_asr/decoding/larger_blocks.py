"""Larger blocks: a live session's segments are read a second time for their final text, in blocks of seconds.

In small blocks a frame sees little of what follows, which costs `english` 5 to 8 % more wrong words
(egs/mini_librispeech/RESULTS.md, "Final texts in larger blocks").  So partial texts and the ends of segments come from the small
blocks, and final texts from larger ones: another state of the same encoder, which begins a block with each segment.

Jobs read the open segment ahead, a block at a time, so that little is left to read when it ends.  A segment that is too long is
cut at an earlier pause: then the reading goes on from the last block before the cut.  The frames are those of one stream of
larger blocks that is paused where segments end (`AcousticRuntime.pause`), whenever they are read.  So the jobs and final texts of
a session may run in another thread than its steps, final texts in their order, and without a job the text is the same.

    s  samples     t  frames     d  channels     v  ids
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from samba_asr.decoding.rescore import TwoPass
from samba_asr.decoding.segment_state import Heard, Reading, SegmentState
from samba_asr.runtime.base import AcousticRuntime, Frames, Latency

ENDED = 1 << 62  # samples


class LargerBlocks:
    """Second reading of the segments of any number of sessions; it holds none of their states."""

    def __init__(self, runtime: AcousticRuntime, latency: Latency, search: TwoPass):
        self.runtime, self.latency, self.search = runtime, latency, search
        self.stride = runtime.stride

    def over(self, runtime: AcousticRuntime, search: TwoPass) -> LargerBlocks:
        """Return the same for another runtime and search."""
        return LargerBlocks(runtime, self.latency, search)

    def job(self, s: SegmentState) -> Callable[[], None] | None:
        """Return what reads the open segment as far as the small blocks did; None as long as that is less than a block."""
        end = s.length * self.stride
        if s.audio is None or end - s.ahead < self.latency.block * self.stride:
            return None
        s.ahead = end
        seen, audio = replace(s, found=[]), list(s.audio)

        def read() -> None:
            if not seen.readings or seen.readings[-1].samples < end:
                seen.readings.append(self._read(seen, audio))

        return read

    def close(self, s: SegmentState, closed: SegmentState) -> None:
        """Give a segment that is being closed its audio and its readings."""
        assert s.audio is not None
        closed.audio, s.audio = split(s.audio, s.length * self.stride)
        s.readings, s.ahead = [], 0

    def read(self, closed: SegmentState) -> SegmentState:
        """Read a closed segment to its end; return it with that text."""
        assert closed.audio
        while closed.readings and closed.readings[-1].samples > closed.length * self.stride:
            closed.readings.pop()  # it was cut before
        last = self._read(closed, closed.audio, ends=True)
        log_probs = [one.log_probs for one in (*closed.readings, last)]
        closed.readings[:] = [last._replace(samples=ENDED)]  # a job that comes too late finds nothing to do
        closed.track.encoder = last.encoder
        return replace(closed, state=last.search, log_probs=log_probs)

    def _read(self, s: SegmentState, audio: Sequence[Heard], ends: bool = False) -> Reading:
        """Go on from the last reading of a segment to its last frame so far."""
        if s.readings:
            before, state, search, _ = s.readings[-1]
        else:
            before, search = 0, self.search.init_state(1, s.hotwords, s.reread)
            state = self.runtime.start(self.latency) if s.track.encoder is None else s.track.encoder
        end = s.length * self.stride
        found = []
        for gap, samples in _joined(split(split(audio, end)[0], before)[1]):
            frames, (state,) = self.runtime.step([samples], [state], [gap] if gap else None)
            found.append(frames)
        if ends:
            frames, (state,) = self.runtime.pause([state])
            found.append(frames)
        rows = [(frames.encoder[0, : frames.lengths[0]], frames.log_probs[0, : frames.lengths[0]]) for frames in found]
        encoded, log_probs = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        if len(encoded):
            search = self.search.step(Frames(encoded[None], log_probs[None], np.array([len(encoded)])), search)
        return Reading(end, state, search, log_probs)


def split(audio: Sequence[Heard], samples: int) -> tuple[list[Heard], list[Heard]]:
    """Divide audio after so many samples."""
    first, rest = [], []
    for gap, some in audio:
        if samples > 0:
            first.append(Heard(gap, some[:samples]))
        if samples < len(some):
            rest.append(Heard(gap if samples <= 0 else 0.0, some[max(samples, 0) :]))
        samples -= len(some)
    return first, rest


def _joined(audio: Sequence[Heard]) -> list[Heard]:
    """Join what has no gap between."""
    found: list[tuple[float, list[np.ndarray]]] = []
    for gap, samples in audio:
        if gap or not found:
            found.append((gap, []))
        found[-1][1].append(samples)
    return [Heard(gap, np.concatenate(parts)) for gap, parts in found]
