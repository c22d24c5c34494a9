"""Endpointing: sessions of any length are cut into segments, each final as soon as it is finished.

Three rules end a segment, those of Kaldi's online decoder (`OnlineEndpointConfig`):

    silence   seconds of silence without a word
    pause     seconds of silence after words
    longest   seconds of a segment: it is cut between two words

A frame is silent if blank is its most probable unit, so the rules need only the CTC head's frames.  They are checked at every
frame, so segments do not depend on how the audio was cut into chunks.  The encoder's state is not reset.  So no frame is lost or
processed twice, and with greedy search the joined tokens of the segments are exactly those of the whole session (by test).
Memory is bounded: only the frames of the open segment are kept, and its audio where it is read again.

A segment that grows too long is cut after the longest silence of its second half.  The search state there is kept, so only the
later frames are searched again, for the next segment.  (Searching all frames again took seconds if many sessions reached their
longest segment together.)  If no silence is long enough, the cut is in the widest gap of the best hypothesis's alignment, and
both parts are searched again.

A session may ask for signals of turns (`samba_asr.decoding.turns`).  They come from the same frame-by-frame rules, so they too
are the same for all chunks.

    b  sessions     t  frames     d  channels     v  ids
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from samba_asr.config import EndpointConfig
from samba_asr.decoding.align import Span, align
from samba_asr.decoding.base import BLANK, Hypothesis, text_of
from samba_asr.decoding.confidence import Evidence, raw
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.larger_blocks import LargerBlocks
from samba_asr.decoding.rescore import TwoPass
from samba_asr.decoding.segment_state import SegmentState, Silence
from samba_asr.decoding.segments import SegmentReader
from samba_asr.decoding.transcript import Graph, Segment
from samba_asr.decoding.turns import EagerEnd, Signal, SpeechStarted, TurnEnded, TurnResumed, TurnRules, probability
from samba_asr.errors import UserError
from samba_asr.runtime.base import AcousticRuntime, Frames
from samba_asr.text.units import SPACE, Tokenizer

NEVER = 1 << 60  # frames
GAP = 4  # a cut needs a silence of 1 / GAP of `pause`: 0.3 s of 1.2


class Segmenter:
    """Searches and segments any number of sessions; it holds none of their states."""

    def __init__(
        self,
        search: TwoPass,
        tokenizer: Tokenizer,
        rules: EndpointConfig | None,
        frame: float,
        sure: Callable[[Evidence], float] = raw,
        graph: Graph | None = None,
        heard: Callable[[Evidence], float] | None = None,
        larger: LargerBlocks | None = None,
    ):
        """rules: None: the whole session is one segment, which is never dropped.
        frame: seconds of an encoder frame.  sure: maps evidence to confidence.  graph: judges a lattice's words in its place.
        heard: maps evidence to the confidence that there is speech, which rules.confidence bounds; default `sure`.
        larger: reads the segments of sessions that ask for it a second time.

        UserError for rules that would never end a segment, or would end it at once.
        """
        self.search, self.tokenizer, self.frame, self.rules = search, tokenizer, frame, rules
        least = rules.confidence if rules else 0.0
        self.reader = SegmentReader(search, tokenizer, frame, sure, graph, heard, least)
        self.larger = larger
        self.silence, self.pause, self.longest = NEVER, NEVER, NEVER
        if rules is None:
            return
        for name in ("silence", "pause"):
            if not getattr(rules, name) >= frame:
                raise UserError(f"decode.endpoint.{name}={getattr(rules, name)}: give at least {frame:g} seconds")
        if not 2 <= rules.longest <= 120:
            raise UserError(f"decode.endpoint.longest={rules.longest}: give 2 to 120 seconds")
        if not 0 <= rules.confidence <= 1:
            raise UserError(f"decode.endpoint.confidence={rules.confidence}: give 0 (keep all segments) to 1")
        self.silence, self.pause, self.longest = (
            round(seconds / frame) for seconds in (rules.silence, rules.pause, rules.longest)
        )

    def without_endpoints(self) -> Segmenter:
        """Return a segmenter without rules; itself if it has none."""
        return self if self.rules is None else self._with(self.search, None, self.larger)

    def over(self, search: TwoPass, runtime: AcousticRuntime) -> Segmenter:
        """Return a segmenter with another search, and with larger blocks of this runtime if it has any."""
        return self._with(search, self.rules, self.larger and self.larger.over(runtime, search))

    def _with(self, search: TwoPass, rules: EndpointConfig | None, larger: LargerBlocks | None) -> Segmenter:
        r = self.reader
        return Segmenter(search, self.tokenizer, rules, self.frame, r.sure, r.graph, r.heard, larger)

    def open(
        self, hotwords: Hotwords | None = None, turns: TurnRules | None = None, reread: bool = True, again: bool = False
    ) -> SegmentState:
        """Open a session, with its own hotwords or those of the search.

        reread: whether the search's neural language model, if it has one, reads each segment when it ends.
        turns: rules in seconds, for signals of turns.  UserError for silences shorter than a frame.
        again: whether each segment is read a second time, in larger blocks; the session then puts its audio into `audio`.
        """
        silences = turns and turns.in_frames(self.frame, self.pause)
        state = self.search.init_state(1, hotwords, reread)
        return SegmentState(state, hotwords, turns=silences, reread=reread, audio=[] if again and self.larger else None)

    def step(self, sessions: Sequence[SegmentState], found: Frames) -> None:
        """Process the next frames, one row for each session; `collect` returns what ends in them."""
        frames, ends, log_probs = (np.asarray(x) for x in (found.encoder, found.lengths, found.log_probs))
        silent = log_probs.argmax(-1) == BLANK  # (b, t)
        at = np.zeros(len(sessions), dtype=np.int64)
        while (at < ends).any():
            n = np.array([self._until_end(s, silent[r, at[r] : ends[r]]) for r, s in enumerate(sessions)])
            rows = [r for r in range(len(sessions)) if n[r]]
            self._search(
                [sessions[r] for r in rows],
                [frames[r, at[r] : at[r] + n[r]] for r in rows],
                [log_probs[r, at[r] : at[r] + n[r]] for r in rows],
            )
            at += n
            for r in rows:
                if self._longest_yet(s := sessions[r]):
                    s.gap = Silence(s.state, s.length, s.silent)
                if self._eager(s):
                    self._offer(s)
                self._end(s)

    def finish(self, session: SegmentState) -> None:
        """End the session's audio."""
        self._close(session)

    def collect(self, session: SegmentState) -> tuple[list[Segment | Signal], int]:
        """Return the segments that have ended, and the signals, in their order; and the number of words dropped from segments.

        All that takes time when a segment ends is done here: larger blocks, and the neural language model.  Another thread may do
        that, as long as nothing else happens to the session.
        """
        found, session.found = session.found, []
        told: list[Segment | Signal] = []
        dropped = 0
        for one in found:
            if not isinstance(one, SegmentState):
                told.append(one)
                continue
            if self.larger and one.audio:
                one = self.larger.read(one)
            segment, withheld = self.reader.read(one)
            dropped += withheld
            if segment:
                told.append(segment)
        return told, dropped

    def job(self, session: SegmentState) -> Callable[[], None] | None:
        """Return work to do before the open segment ends, if there is any: it reads the segment ahead (`LargerBlocks`)."""
        return self.larger and self.larger.job(session)

    def text(self, session: SegmentState) -> str:
        """Return the text of the open segment, by the first pass."""
        return text_of(self.search.first_pass(session.state)[0][0], self.tokenizer)

    def stable(self, session: SegmentState) -> str:
        """Return the beginning of `text` that cannot change any more while the segment is open."""
        if (shared := self.search.shared_words(session.state)) is not None:
            return " ".join(shared)
        found = self.search.still_possible(session.state)
        words = [h.words or text_of(h, self.tokenizer).split() for h in found]
        same = 0
        # The last word may still grow, so it is not stable.
        while all(same + 1 < len(some) and some[same] == words[0][same] for some in words):
            same += 1
        return " ".join(words[0][:same])

    def _until_end(self, s: SegmentState, silent: np.ndarray) -> int:
        """Count frames up to the next endpoint or possible cut, and update the session's counters."""
        for n, quiet in enumerate(silent.tolist(), 1):
            lost = s.missing.get(s.count + s.length, 0.0) if s.missing else 0
            s.length += 1
            s.silent = s.silent + 1 + int(lost) if quiet else 0
            s.spoken |= not quiet
            if s.turns and not quiet:
                self._voiced(s)
            if self._over(s) or self._longest_yet(s) or self._eager(s):
                return n
        return len(silent)

    def _voiced(self, s: SegmentState) -> None:
        """Signal the beginning of a turn, or that it goes on."""
        s.voiced = s.begin + s.until(s.length)
        if not s.speaking:
            s.found.append(SpeechStarted(self._seconds(s.voiced - 1)))
        elif s.offered:
            s.found.append(TurnResumed(self._seconds(s.voiced - 1)))
        s.speaking, s.asked, s.offered = True, False, False

    def _eager(self, s: SegmentState) -> bool:
        """Return whether the silence after words is long enough for an eager end that is not reported yet."""
        return s.turns is not None and s.spoken and not s.asked and s.silent >= s.turns.eager and not self._over(s)

    def _offer(self, s: SegmentState) -> None:
        """Report an eager end, with the segment as it would be if it ended here; nothing if that has no words."""
        s.asked = True
        if segment := self.reader.read(s)[0]:  # not read again: whoever asks for it is in a hurry
            s.offered = True
            s.found.append(EagerEnd(segment))

    def ending(self, s: SegmentState) -> float:
        """Return the probability that the open turn is over; 0 if none is open."""
        return probability(s.silent * self.frame) if s.speaking else 0.0

    def _longest_yet(self, s: SegmentState) -> bool:
        """Return whether this frame ends the longest silence so far.

        That holds for at most `pause` frames of a segment, so the search is rarely interrupted.
        """
        least = s.gap.silent + 1 if s.gap else max(2, self.pause // GAP)
        return s.length >= self.longest // 2 and s.silent >= least

    def _over(self, s: SegmentState) -> bool:
        return s.length >= self.longest or s.silent >= self._allowed(s)

    def _allowed(self, s: SegmentState) -> float:
        """Return the frames of silence that end the segment."""
        if not s.spoken:
            return self.silence
        return s.turns.end if s.turns else self.pause

    def _search(
        self, sessions: Sequence[SegmentState], frames: Sequence[np.ndarray], log_probs: Sequence[np.ndarray]
    ) -> None:
        lengths = np.array([len(x) for x in frames])
        states = self.search.stack([s.state for s in sessions])
        states = self.search.step(Frames(_padded(frames), _padded(log_probs), lengths), states)
        for row, s in enumerate(sessions):
            s.state = self.search.take(states, [row])
            # Copies, because a view would keep the frames of all sessions of this step alive while this segment is open.
            s.frames.append(frames[row].copy())
            s.log_probs.append(log_probs[row].copy())

    def _end(self, s: SegmentState) -> None:
        if not self._over(s):
            return
        if s.silent >= self._allowed(s):
            self._close(s)
        else:
            self._split(s)

    def _close(self, s: SegmentState, turn: bool = True) -> None:
        """Close the open segment; a new one begins with the next frame.  turn: whether a turn ends too."""
        closed = replace(s, found=[])  # the next segment has lists of its own
        if self.larger and s.audio is not None:
            self.larger.close(s, closed)
        s.found.append(closed)
        if turn and s.speaking:
            s.found.append(TurnEnded(self._seconds(s.voiced), self._seconds(s.begin + s.until(s.length))))
            s.speaking = False
        self._restart(s)

    def _seconds(self, frame: float) -> float:
        return round(frame * self.frame, 3)

    def _split(self, s: SegmentState) -> None:
        frames, log_probs = np.concatenate(s.frames), np.concatenate(s.log_probs)
        silent = s.silent
        if s.gap:
            cut = s.gap.length
            s.state, s.frames, s.log_probs = s.gap.state, [frames[:cut]], [log_probs[:cut]]
        else:
            best = self.search.hypotheses(self.search.finish(s.state))[0][0]
            spans = align(np.concatenate(s.log_probs), best.tokens, self.search.best_path) if best.tokens else []
            cut = self._gap(best, spans) or s.length
            self._again(s, frames[:cut], log_probs[:cut])
        s.length = cut
        self._close(s, turn=False)
        self._again(s, frames[cut:], log_probs[cut:])
        s.length = len(frames) - cut
        quiet = log_probs[cut:].argmax(-1) == BLANK
        s.silent, s.spoken = min(silent, s.length), not quiet.all()

    def _again(self, s: SegmentState, frames: np.ndarray, log_probs: np.ndarray) -> None:
        """Search these frames from the start."""
        s.state, s.frames, s.log_probs = self.search.init_state(1, s.hotwords, s.reread), [], []
        if len(frames):
            self._search([s], [frames], [log_probs])

    def _gap(self, best: Hypothesis, spans: Sequence[Span]) -> int | None:
        """Return the frame in the middle of the widest gap before a word, in the second half if possible.

        With one word only, the gap may be before any unit.  None with one unit only.
        """
        gaps = [(before.end, after.first) for before, after in itertools.pairwise(spans)]
        starts = [piece.startswith(SPACE) for piece in self.tokenizer.pieces(best.tokens)[1:]]
        gaps = [gap for gap, start in zip(gaps, starts, strict=True) if start] or gaps
        gaps = [gap for gap in gaps if gap[1] >= self.longest // 2] or gaps
        if not gaps:
            return None
        end, first = max(gaps, key=lambda gap: gap[1] - gap[0])
        return (end + first + 1) // 2

    def _restart(self, s: SegmentState) -> None:
        s.begin += s.until(s.length)
        s.count += s.length
        s.missing = {at: gap for at, gap in s.missing.items() if at >= s.count}
        s.state, s.frames, s.log_probs = self.search.init_state(1, s.hotwords, s.reread), [], []
        s.length, s.silent, s.spoken, s.gap = 0, 0, False, None
        s.asked = s.offered = False


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return rows (t, d) of different lengths as one array, with zeros after them."""
    found = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), rows[0].dtype)
    for place, row in zip(found, rows, strict=True):
        place[: len(row)] = row
    return found
