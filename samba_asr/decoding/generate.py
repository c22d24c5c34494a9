"""Text that the Mamba decoder writes by itself, unit by unit, together with CTC (`decode.search.method=decoder`).

This is how Samba-ASR (arXiv 2501.02832) recognizes.  A text has the score

    (1 - ctc) ln p_decoder(text, end | speech) + ctc ln p_ctc(text | speech) + bonus * units

and a beginning of a text the same with the probability of all texts that begin so (S. Watanabe et al., "Hybrid CTC/attention
architecture for end-to-end speech recognition", 2017, eq. 15).  Without a bonus both fall as a text grows, so the search may stop
where no beginning is better than the texts that have ended.  CTC keeps the decoder from stopping early and from repeating itself;
of a decoder alone the most probable text is often the empty one (F. Stahlberg and B. Byrne, arXiv 1908.10090).

The search reads all frames of a segment for each unit.  It begins when the segment has ended, so it cannot stream.
Shapes: b rows, t frames, v units, n beginnings of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from samba_asr.decoding import ctc_prefix
from samba_asr.decoding.align import align
from samba_asr.decoding.base import BLANK, Hypothesis, checked_lengths, frames_of

if TYPE_CHECKING:
    import torch

    from samba_asr.config import SearchConfig
    from samba_asr.decoding.guide import Guide
    from samba_asr.decoding.hotwords import Hotwords
    from samba_asr.runtime.base import SecondPass

PATIENCE = 5  # units whose bonus a beginning may still earn, when the search decides whether to stop
CANDIDATES = 2  # units that may follow a beginning, as a multiple of the beam: the decoder's likeliest


class Collected(NamedTuple):
    """The frames of a segment so far."""

    chunks: np.ndarray  # (b,) object: tuple of (t, v) float64


class Beam(NamedTuple):
    """Beginnings of texts, best first."""

    tokens: list[tuple[int, ...]]
    decoder: np.ndarray  # (n,) ln p of the decoder
    paths: np.ndarray  # (n, t, 2) of `ctc_prefix`
    state: Any  # of the decoder, before the last unit


class DecoderSearch:
    """Search in which the decoder writes; without a decoder, CTC alone.

    `Hypothesis.score` is the score above; `times` are those of the text's best CTC alignment.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"nbest"})
    generates = True  # `generate` needs the decoder's memory of the segment

    def __init__(self, beam: int = 8, ctc: float = 0.3, bonus: float = 0.0):
        """ctc: CTC's share of the score.  bonus: nats a unit."""
        self.beam, self.ctc, self.bonus = beam, ctc, bonus

    @classmethod
    def from_config(
        cls, config: SearchConfig, guide: Guide | None = None, *, counts_words: bool = True
    ) -> DecoderSearch:
        return cls(config.beam, config.ctc, config.unit_bonus)

    def init_state(self, batch: int, hotwords: Hotwords | None = None) -> Collected:
        if hotwords is not None:
            raise ValueError("decoder search takes no hotwords: they need beam search")
        chunks = np.empty(batch, dtype=object)
        chunks[:] = [()] * batch
        return Collected(chunks)

    def step(
        self, log_probs: torch.Tensor | np.ndarray, lengths: torch.Tensor | np.ndarray, state: Collected
    ) -> Collected:
        counts = checked_lengths(log_probs, lengths, len(state.chunks))
        if not counts.any():
            return state
        frames, chunks = frames_of(log_probs, int(counts.max())), state.chunks.copy()
        for row in np.flatnonzero(counts):
            chunks[row] = (*chunks[row], frames[row, : counts[row]].copy())
        return Collected(chunks)

    def finish(self, state: Collected) -> Collected:
        return state

    def hypotheses(self, state: Collected, nbest: int = 1, timed: bool = True) -> list[list[Hypothesis]]:
        return self.generate(state, None, None, nbest)

    def generate(
        self, state: Collected, decoder: SecondPass | None, memory: Any, nbest: int = 1
    ) -> list[list[Hypothesis]]:
        """Return for each row 1 to `nbest` texts, best first.  memory: the decoder's, of the same rows."""
        found = []
        for row, chunks in enumerate(state.chunks):
            log_probs = np.concatenate(chunks) if chunks else np.zeros((0, 1))
            text = self._text_state(decoder, memory, row)
            some = _Row(log_probs, decoder, text, self.ctc, self.bonus).search(self.beam, nbest)
            found.append([_timed(h, log_probs) for h in some])
        return found

    def _text_state(self, decoder: SecondPass | None, memory: Any, row: int) -> Any:
        if decoder is None:
            return None
        from samba_asr.streaming import take_rows

        return decoder.init_text(take_rows(memory, [row]))


class _Row:
    """The search of one row."""

    def __init__(self, log_probs: np.ndarray, decoder: SecondPass | None, state: Any, ctc: float, bonus: float):
        self.log_probs, self.decoder, self.start, self.bonus = log_probs, decoder, state, bonus
        self.ctc = 1.0 if decoder is None else ctc

    def search(self, width: int, nbest: int) -> list[Hypothesis]:
        t = len(self.log_probs)
        if not t:
            return [Hypothesis()]
        beam, ended = Beam([()], np.zeros(1), ctc_prefix.start(self.log_probs), self.start), []
        for length in range(t + 1):  # a text has at most a unit a frame
            after, state = self._predict(beam)
            scores = self._joint(beam.decoder + after[:, BLANK], ctc_prefix.whole(beam.paths)) + self.bonus * length
            ended += [Hypothesis(g, s) for g, s in zip(beam.tokens, scores.tolist(), strict=True) if s > -np.inf]
            ended = sorted(ended, key=lambda h: -h.score)[:nbest]
            best, beam = self._longer(beam, after, state, width)
            best += self.bonus * (length + 1 + PATIENCE)
            if not beam.tokens or (len(ended) == nbest and best <= ended[-1].score):
                break
        return ended or [Hypothesis(score=-np.inf)]

    def _joint(self, decoder: np.ndarray, ctc: np.ndarray) -> np.ndarray:
        """Return the scores; -inf for what CTC makes impossible, whatever its share."""
        possible = ctc > -np.inf
        return np.where(possible, (1 - self.ctc) * decoder + self.ctc * np.where(possible, ctc, 0), -np.inf)

    def _predict(self, beam: Beam) -> tuple[np.ndarray, Any]:
        """Return ln p (n, v) of each next unit, 0 the end; zeros without a decoder."""
        if self.decoder is None:
            return np.zeros((len(beam.tokens), self.log_probs.shape[1])), None
        import torch

        from samba_asr.streaming import leaves
        from samba_asr.text.units import BOUNDARY

        device = leaves(beam.state)[0].device
        last = torch.tensor([[g[-1] if g else BOUNDARY] for g in beam.tokens], device=device)
        with torch.inference_mode():
            logits, state = self.decoder.step(last, torch.ones(len(last), dtype=torch.long, device=device), beam.state)
            return logits[:, 0].double().log_softmax(-1).cpu().numpy(), state

    def _longer(self, beam: Beam, after: np.ndarray, state: Any, width: int) -> tuple[float, Beam]:
        """Return the best score, without bonus, of the beginnings that are a unit longer, and the `width` best of them."""
        n, v = after.shape
        k = v - 1 if self.decoder is None else min(v - 1, CANDIDATES * width)
        units = 1 + np.argsort(-after[:, 1:], axis=1, kind="stable")[:, :k].ravel()  # (n k,)
        rows = np.repeat(np.arange(n), k)
        last = np.array([g[-1] if g else BLANK for g in beam.tokens])
        begins, paths = ctc_prefix.extend(self.log_probs, beam.paths[rows], last[rows], units)
        decoder = beam.decoder[rows] + after[rows, units]
        scores = self._joint(decoder, begins)
        order = [int(i) for i in np.argsort(-scores, kind="stable")[:width] if scores[i] > -np.inf]
        if state is not None and order:
            from samba_asr.streaming import take_rows

            state = take_rows(state, rows[order].tolist())
        tokens = [(*beam.tokens[rows[i]], int(units[i])) for i in order]
        return float(scores[order[0]]) if order else -np.inf, Beam(tokens, decoder[order], paths[order], state)


def _timed(h: Hypothesis, log_probs: np.ndarray) -> Hypothesis:
    spans: Sequence = align(log_probs, h.tokens) if h.tokens else []
    return replace(h, times=tuple(span.first for span in spans))
