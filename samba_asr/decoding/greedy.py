"""Best-path search of a CTC head: the most probable id of every frame, repeats merged, blanks dropped.

A. Graves et al., "Connectionist temporal classification", 2006, section 3.2.  The search finds the most probable alignment.
Its text need not be the most probable text: `prefix_beam` sums over alignments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from samba_asr.decoding.base import BLANK, Hypothesis, checked_lengths, frames_of

if TYPE_CHECKING:
    import torch

    from samba_asr.config import SearchConfig
    from samba_asr.decoding.guide import Guide
    from samba_asr.decoding.hotwords import Hotwords


class GreedyState(NamedTuple):
    tokens: np.ndarray  # (b,) object: tuple of ids
    times: np.ndarray  # (b,) object: tuple of frame indices
    score: np.ndarray  # (b,) float64: sum of the maxima
    last: np.ndarray  # (b,) int64: id of the last frame, blank before the first
    frames: np.ndarray  # (b,) int64: frames seen


class Greedy:
    """Best-path search.  `Hypothesis.score` is the log-probability of the one alignment, `times` are the tokens' first frames.

    Ties between ids go to the lower one.  There is one hypothesis a row, whatever `nbest` is.
    """

    takes = frozenset[str]()

    @classmethod
    def from_config(cls, config: SearchConfig, guide: Guide | None = None, *, counts_words: bool = True) -> Greedy:
        return cls()

    def init_state(self, batch: int, hotwords: Hotwords | None = None) -> GreedyState:
        if hotwords is not None:
            raise ValueError("greedy search has one hypothesis: hotwords need beam search")
        tokens, times = np.empty(batch, dtype=object), np.empty(batch, dtype=object)
        for row in range(batch):
            tokens[row] = times[row] = ()
        zeros = np.zeros(batch, dtype=np.int64)
        return GreedyState(tokens, times, np.zeros(batch), zeros, zeros)

    def step(
        self, log_probs: torch.Tensor | np.ndarray, lengths: torch.Tensor | np.ndarray, state: GreedyState
    ) -> GreedyState:
        counts = checked_lengths(log_probs, lengths, len(state.frames))
        if not counts.any():
            return state
        frames = frames_of(log_probs, int(counts.max()))
        best, ids = frames.max(-1), frames.argmax(-1)  # (b, t) each
        tokens, times, score, last = (x.copy() for x in state[:4])
        for row in np.flatnonzero(counts):
            path = ids[row, : counts[row]]
            before = np.concatenate([last[row : row + 1], path[:-1]])
            first = np.flatnonzero((path != before) & (path != BLANK))
            tokens[row] = tokens[row] + tuple(path[first].tolist())
            times[row] = times[row] + tuple((first + state.frames[row]).tolist())
            # Sequential addition, so that the sum does not depend on how time was cut into chunks.
            score[row] = np.add.accumulate(np.append(score[row], best[row, : counts[row]]))[-1]
            last[row] = path[-1]
        return GreedyState(tokens, times, score, last, state.frames + counts)

    def finish(self, state: GreedyState) -> GreedyState:
        return state

    def hypotheses(self, state: GreedyState, nbest: int = 1, timed: bool = True) -> list[list[Hypothesis]]:
        rows = zip(state.tokens, state.score.tolist(), state.times, strict=True)
        return [[Hypothesis(tokens, score, times)] for tokens, score, times in rows]
