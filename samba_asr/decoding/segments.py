"""Text of closed segments: words with times and confidences, without those that are too unsure to be speech.

`samba_asr.decoding.segmenter` closes segments, and `SegmentReader` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from samba_asr.decoding.align import align
from samba_asr.decoding.base import Hypothesis, text_of
from samba_asr.decoding.confidence import Evidence, agreement, raw
from samba_asr.decoding.lattice import Lattice, in_seconds
from samba_asr.decoding.rescore import TwoPass
from samba_asr.decoding.segment_state import SegmentState
from samba_asr.decoding.transcript import Graph, Segment, grouped, words_of
from samba_asr.text.units import Tokenizer

NBEST = 8  # hypotheses for the confidences of words
ALONE = 0.3
"""Words of confidence 0 that are added to a segment before its mean confidence is tested, so that few words need more confidence.
Clicks are sometimes recognized as IT or BUT, with confidences up to 0.87 (egs/mini_librispeech/RESULTS.md)."""


def speech(confidences: Sequence[float], least: float) -> list[int]:
    """Return the indices of a segment's words that are speech: all of them, or the runs that are confident enough.

    Words are speech if their mean confidence, with ALONE words of confidence 0 added, is at least `least`.  If that is false for
    the whole segment, it may be true for a part: a clip that is cut within a word ends in wrong words.  Each maximal run for
    which it is true is kept, and the other words are dropped.
    """
    margins = [confidence - least for confidence in confidences]

    def within(first: int, end: int) -> list[int]:
        best, at, total, run = 0.0, (first, first), 0.0, first
        for n in range(first, end):
            total += margins[n]
            if total > best:
                best, at = total, (run, n + 1)
            if total <= 0:
                total, run = 0.0, n + 1
        if at[0] == at[1] or best < least * ALONE:
            return []
        return [*within(first, at[0]), *range(*at), *within(at[1], end)]

    everything = list(range(len(confidences)))
    return everything if sum(margins) >= least * ALONE else within(0, len(confidences))


class SegmentReader:
    """Reads closed segments of any number of sessions; it holds none of their states."""

    def __init__(
        self,
        search: TwoPass,
        tokenizer: Tokenizer,
        frame: float,
        sure: Callable[[Evidence], float] = raw,
        graph: Graph | None = None,
        heard: Callable[[Evidence], float] | None = None,
        least: float = 0.0,
    ):
        """least: lowest confidence that there is speech.  The other arguments are those of `Segmenter`."""
        self.search, self.tokenizer, self.frame, self.sure, self.graph = search, tokenizer, frame, sure, graph
        self.heard, self.least = heard or sure, least

    def read(self, closed: SegmentState) -> tuple[Segment | None, int]:
        """Return the segment, None without words, and the number of words dropped for low confidence."""
        state = self.search.finish(closed.state)
        found = self.search.with_lattice(state, NBEST)
        assert found is not None
        segment, withheld = self._segment(closed, *found)
        # hotwords neither turn noise into speech nor drop speech
        if segment is None and (plain := self.search.with_lattice(state, NBEST, without=True)):
            segment, withheld = self._segment(closed, *plain)
        return segment, withheld

    def _segment(
        self, closed: SegmentState, nbest: list[Hypothesis], lattice: Lattice | None
    ) -> tuple[Segment | None, int]:
        """Make a segment of the best hypothesis, and count its dropped words; None if no word is confident enough."""
        best, timed = nbest[0], [self._timed_words(h) for h in nbest]
        spans = align(np.concatenate(closed.log_probs), best.tokens, self.search.best_path) if best.tokens else []
        agreed = agreement(timed[0], timed, [h.score for h in nbest])
        words = words_of(
            best.tokens,
            spans,
            self.tokenizer,
            self.frame,
            best.words,
            begin=closed.begin,
            elapsed=closed.elapsed,
            agreed=agreed,
            sure=self.sure,
            lattice=lattice,
            graph=self.graph,
        )
        kept = tuple(words[n] for n in speech([self.heard(word.evidence) for word in words], self.least))
        if not kept:
            return None, len(words)
        text = text_of(best, self.tokenizer) if kept == words else " ".join(word.text for word in kept)
        until = round((closed.begin + closed.until(closed.length)) * self.frame, 3)
        shown = lattice and in_seconds(lattice, lambda frame: (closed.begin + closed.elapsed(frame)) * self.frame)
        return Segment(text, kept[0].start, kept[-1].end, kept, until, lattice=shown), len(words) - len(kept)

    def _timed_words(self, h: Hypothesis) -> list[tuple[str, int]]:
        """Return words with their first frames."""
        return [(text, times[0]) for text, times in grouped(h.tokens, h.times, self.tokenizer, h.words)]
