"""Endpoints: sessions that may last for hours become segments, each final as soon as it is over.

Three rules, those of Kaldi's online decoder (`OnlineEndpointConfig`), end a segment

    silence   after so much of it, where nothing was said
    pause     after so much silence behind words
    longest   where a segment grows this long: it is cut between two words

A frame is silent where blank is the most probable unit, so the rules need nothing but the CTC head's frames, and are asked
at every frame: segments do not depend on how the audio was cut into chunks.  The encoder's state goes on through all of
this.  So no frame is lost, none is heard twice, and with the greedy search the segments' tokens joined are exactly those
of the session as one (by test).  Memory is bounded: only the frames of the open segment are kept.

A segment that grows too long is cut behind the longest silence of its second half: the search as it stood there is kept, so only
the frames behind it are searched again, as the beginning of the next segment.  (All of them at once took seconds, where many
sessions came to their longest together.)  Where nothing there is silent for long enough it is cut in the widest gap by the
alignment of the best hypothesis, and both parts are searched again.

    b  sessions     t  frames     d  channels     v  ids
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from samba_asr.config import EndpointConfig
from samba_asr.decoding.align import Span, align
from samba_asr.decoding.base import BLANK, Hypothesis, text_of
from samba_asr.decoding.confidence import Evidence, agreement, raw
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.rescore import TwoPass, TwoPassState
from samba_asr.decoding.transcript import Segment, grouped, words_of
from samba_asr.errors import UserError
from samba_asr.runtime.base import Frames
from samba_asr.text.units import SPACE, Tokenizer

NEVER = 1 << 60  # frames
GAP = 4  # the share of `pause` that has to be silent for a cut: 0.3 s of 1.2
NBEST = 8  # hypotheses that words' confidences are taken from
ALONE = 0.4
"""Words of no confidence that count with those of a segment when it is asked whether it is speech: the fewer words, the surer
they have to be.  A click now and then is heard as IT or BUT, with up to 0.87 (egs/mini_librispeech/RESULTS.md)."""


def speech(confidences: Sequence[float], least: float) -> list[int]:
    """The words of a segment that are speech, by number: all of them, or the runs that are sure by themselves.

    Words are speech where their mean confidence, with ALONE words of none beside them, is `least` or more.  Where that does not
    hold of the whole segment it may hold of a part: a clip that is cut in a word ends in words that are none.  Each maximal
    run is kept for which it holds, and the words around it are withheld.
    """
    worth = [confidence - least for confidence in confidences]

    def within(first: int, end: int) -> list[int]:
        best, at, total, run = 0.0, (first, first), 0.0, first
        for n in range(first, end):
            total += worth[n]
            if total > best:
                best, at = total, (run, n + 1)
            if total <= 0:
                total, run = 0.0, n + 1
        if at[0] == at[1] or best < least * ALONE:
            return []
        return [*within(first, at[0]), *range(*at), *within(at[1], end)]

    everything = list(range(len(confidences)))
    return everything if sum(worth) >= least * ALONE else within(0, len(confidences))


@dataclass(frozen=True)
class Silence:
    """Where a segment may be cut: the search behind so many of its frames, the last `silent` of which are."""

    state: TwoPassState
    length: int
    silent: int


@dataclass
class SegmentState:
    """The search of one session; made by `Segmenter.open`."""

    state: TwoPassState  # of one row: over the open segment
    hotwords: Hotwords | None = None
    segments: list[Segment] = field(default_factory=list)  # those that are over; the caller may take them away
    begin: float = 0  # the frame where the open segment begins; not whole where a gate opened between frames
    frames: list[Tensor] = field(default_factory=list)  # of the open segment, (t, d) each
    log_probs: list[np.ndarray] = field(default_factory=list)  # of the same frames, (t, v) each
    length: int = 0  # frames of the open segment
    silent: int = 0  # of these, the last that are silent
    spoken: bool = False  # whether any is not
    gap: Silence | None = None  # the longest in the second half of what a segment may last
    withheld: int = 0  # words of segments that are over, too unsure to be speech; the caller may set it back

    def copy(self) -> SegmentState:
        """A state that goes on from here independently."""
        lists = {name: list(getattr(self, name)) for name in ("segments", "frames", "log_probs")}
        return replace(self, **lists)


class Segmenter:
    """Drives the search of any number of sessions; holds none of their state."""

    def __init__(
        self,
        search: TwoPass,
        tokenizer: Tokenizer,
        rules: EndpointConfig | None,
        frame: float,
        sure: Callable[[Evidence], float] = raw,
    ):
        """rules: None: the whole session is one segment, and none of it is withheld.
        frame: seconds of an encoder frame.  sure: makes words' confidences.

        UserError for rules that would never end a segment, or at once.
        """
        self.search, self.tokenizer, self.frame, self.sure = search, tokenizer, frame, sure
        self.rules = rules
        self.least, self.silence, self.pause, self.longest = 0.0, NEVER, NEVER, NEVER
        if rules is None:
            return
        for name in ("silence", "pause"):
            if not getattr(rules, name) >= frame:
                raise UserError(f"decode.endpoint.{name}={getattr(rules, name)}: seconds, at least {frame:g}")
        if not 2 <= rules.longest <= 120:
            raise UserError(f"decode.endpoint.longest={rules.longest}: seconds, from 2 to 120")
        if not 0 <= rules.confidence <= 1:
            raise UserError(f"decode.endpoint.confidence={rules.confidence}: from 0 (all segments are told) to 1")
        self.least = rules.confidence
        self.silence, self.pause, self.longest = (
            round(seconds / frame) for seconds in (rules.silence, rules.pause, rules.longest)
        )

    def without_endpoints(self) -> Segmenter:
        """The same without rules; itself if it has none."""
        if self.rules is None:
            return self
        return Segmenter(self.search, self.tokenizer, None, self.frame, self.sure)

    def open(self, hotwords: Hotwords | None = None) -> SegmentState:
        """A new session, with its own phrases or those of the search."""
        return SegmentState(self.search.init_state(1, hotwords), hotwords)

    def step(self, sessions: Sequence[SegmentState], found: Frames) -> None:
        """Read the next frames, a row a session; segments that are over appear in `segments`."""
        frames, lengths, log_probs = found.encoder, found.lengths, found.log_probs.cpu()
        silent = (log_probs.argmax(-1) == BLANK).numpy()  # (b, t)
        at, ends = np.zeros(len(sessions), dtype=np.int64), lengths.cpu().numpy()
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
                self._end(s)

    def finish(self, session: SegmentState) -> None:
        """The end of the session's audio."""
        self._close(session)

    def text(self, session: SegmentState) -> str:
        """The text of the open segment, by the first pass."""
        return text_of(self.search.first_pass(session.state)[0][0], self.tokenizer)

    def stable(self, session: SegmentState) -> str:
        """The beginning of `text` that cannot change any more."""
        found = self.search.still_possible(session.state)
        words = [h.words or text_of(h, self.tokenizer).split() for h in found]
        same = 0
        # A last word may still grow, so it is not certain.
        while all(same + 1 < len(some) and some[same] == words[0][same] for some in words):
            same += 1
        return " ".join(words[0][:same])

    def _until_end(self, s: SegmentState, silent: np.ndarray) -> int:
        """How many frames, up to the one at which a rule holds or a cut may come to be; notes what they are."""
        for n, quiet in enumerate(silent.tolist(), 1):
            s.length += 1
            s.silent = s.silent + 1 if quiet else 0
            s.spoken |= not quiet
            if self._over(s) or self._longest_yet(s):
                return n
        return len(silent)

    def _longest_yet(self, s: SegmentState) -> bool:
        """Whether this frame ends the longest silence so far: of `pause` frames of a segment at most, so it hardly holds up the
        search."""
        least = s.gap.silent + 1 if s.gap else max(2, self.pause // GAP)
        return s.length >= self.longest // 2 and s.silent >= least

    def _over(self, s: SegmentState) -> bool:
        return s.length >= self.longest or s.silent >= (self.pause if s.spoken else self.silence)

    def _search(self, sessions: Sequence[SegmentState], frames: Sequence[Tensor], log_probs: Sequence[Tensor]) -> None:
        lengths = torch.tensor([len(x) for x in frames], device=frames[0].device)
        padded, rated = (torch.nn.utils.rnn.pad_sequence(list(x), batch_first=True) for x in (frames, log_probs))
        states = self.search.stack([s.state for s in sessions])
        states = self.search.step(Frames(padded, rated, lengths), states)
        for row, s in enumerate(sessions):
            s.state = self.search.take(states, [row])
            # Copies: a view would hold the frames of all sessions of this step as long as this one's segment is open.
            s.frames.append(frames[row].clone())
            s.log_probs.append(log_probs[row].numpy().copy())

    def _end(self, s: SegmentState) -> None:
        if not self._over(s):
            return
        if s.silent >= (self.pause if s.spoken else self.silence):
            self._close(s)
        else:
            self._split(s)

    def _close(self, s: SegmentState) -> None:
        """The open segment is over; a new one begins with the next frame."""
        state = self.search.finish(s.state)
        segment, withheld = self._segment(s, self.search.hypotheses(state, NBEST)[0])
        if segment is None and (plain := self.search.without_hotwords(state, NBEST)):
            segment, withheld = self._segment(
                s, plain
            )  # what is only expected makes no speech of noise, nor noise of speech
        if segment:
            s.segments.append(segment)
        s.withheld += withheld
        self._restart(s)

    def _segment(self, s: SegmentState, nbest: list[Hypothesis]) -> tuple[Segment | None, int]:
        """What the best hypothesis says, and how many words of it are withheld; None where none is sure enough to be speech."""
        best, heard = nbest[0], [self._heard(h) for h in nbest]
        spans = align(np.concatenate(s.log_probs), best.tokens) if best.tokens else []
        agreed = agreement(heard[0], heard, [h.score for h in nbest])
        words = words_of(
            best.tokens, spans, self.tokenizer, self.frame, best.words, begin=s.begin, agreed=agreed, sure=self.sure
        )
        kept = tuple(words[n] for n in speech([word.confidence for word in words], self.least))
        if not kept:
            return None, len(words)
        text = text_of(best, self.tokenizer) if kept == words else " ".join(word.text for word in kept)
        until = round((s.begin + s.length) * self.frame, 3)
        return Segment(text, kept[0].start, kept[-1].end, kept, until), len(words) - len(kept)

    def _split(self, s: SegmentState) -> None:
        frames, log_probs = torch.cat(s.frames), torch.from_numpy(np.concatenate(s.log_probs))
        silent = s.silent
        if s.gap:
            cut = s.gap.length
            s.state, s.frames, s.log_probs = s.gap.state, [frames[:cut]], [log_probs[:cut].numpy()]
        else:
            best = self.search.hypotheses(self.search.finish(s.state))[0][0]
            spans = align(np.concatenate(s.log_probs), best.tokens) if best.tokens else []
            cut = self._gap(best, spans) or s.length
            self._again(s, frames[:cut], log_probs[:cut])
        s.length = cut
        self._close(s)
        self._again(s, frames[cut:], log_probs[cut:])
        s.length = len(frames) - cut
        quiet = log_probs[cut:].argmax(-1).numpy() == BLANK
        s.silent, s.spoken = min(silent, s.length), not quiet.all()

    def _again(self, s: SegmentState, frames: Tensor, log_probs: Tensor) -> None:
        """Search these frames from the start."""
        s.state, s.frames, s.log_probs = self.search.init_state(1, s.hotwords), [], []
        if len(frames):
            self._search([s], [frames], [log_probs])

    def _gap(self, best: Hypothesis, spans: Sequence[Span]) -> int | None:
        """The frame in the middle of the widest gap before a word, in the second half if there is one; before any unit
        where there is but one word; None where there is but one unit."""
        gaps = [(before.end, after.first) for before, after in itertools.pairwise(spans)]
        starts = [piece.startswith(SPACE) for piece in self.tokenizer.pieces(best.tokens)[1:]]
        gaps = [gap for gap, start in zip(gaps, starts, strict=True) if start] or gaps
        gaps = [gap for gap in gaps if gap[1] >= self.longest // 2] or gaps
        if not gaps:
            return None
        end, first = max(gaps, key=lambda gap: gap[1] - gap[0])
        return (end + first + 1) // 2

    def _heard(self, h: Hypothesis) -> list[tuple[str, int]]:
        """Words with their first frames."""
        return [(text, times[0]) for text, times in grouped(h.tokens, h.times, self.tokenizer, h.words)]

    def _restart(self, s: SegmentState) -> None:
        s.begin += s.length
        s.state, s.frames, s.log_probs = self.search.init_state(1, s.hotwords), [], []
        s.length, s.silent, s.spoken, s.gap = 0, 0, False, None
