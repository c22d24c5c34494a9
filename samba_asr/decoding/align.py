"""Forced alignment: the place of a known text in the frames of a CTC head.

The result is the most probable alignment of the text, by Viterbi over the states blank, token, blank, token, ..., blank
(A. Graves et al., "Connectionist temporal classification", 2006, section 4.1, with the maximum in place of the sum).

    t  frames     u  tokens     s = 2 u + 1  states     v  ids, 0 is the CTC blank
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from samba_asr.decoding.base import BLANK
from samba_asr.errors import UserError

MOST = 1 << 30
"""Limit of t * s, the bytes of the table of moves.  A minute of speech needs 2 million; an hour has 90,000 frames and 100,000
states."""


class Span(NamedTuple):
    """Place of a token: frames first .. end - 1, and the mean of its log-probabilities there."""

    first: int
    end: int
    log_prob: float


Path = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Function like `best_path`."""


def align(log_probs: np.ndarray, tokens: Sequence[int], path: Path | None = None) -> list[Span]:
    """Return a span for each of `tokens` in log_probs (t, v), in order and without overlap.

    path: a faster `best_path`, such as that of the compiled search.
    UserError if there are too few frames for the tokens, or if the table would take more than `MOST` bytes.
    """
    t, ids = len(log_probs), np.asarray(tokens, dtype=np.int64)
    twins = int((ids[1:] == ids[:-1]).sum())  # a blank separates equal neighbors
    if t < len(ids) + twins:
        raise UserError(
            f"a text of {len(ids)} units takes at least {len(ids) + twins} frames, the audio has {t}: give the whole audio, "
            "or a shorter text"
        )
    if t * (2 * len(ids) + 1) > MOST:
        raise UserError(f"{t} frames and {len(ids)} units are too many to align at once: cut the audio and its text")
    labels = np.full(2 * len(ids) + 1, BLANK)
    labels[1::2] = ids
    skips = np.zeros(len(labels), dtype=bool)  # into a token, over the blank before it
    skips[3::2] = ids[1:] != ids[:-1]

    states = (path or best_path)(log_probs, labels, skips)
    spans = []
    for u, token in enumerate(ids.tolist()):
        first, end = np.searchsorted(states, [2 * u + 1, 2 * u + 2]).tolist()
        if first == end:
            raise UserError("the frames make this text impossible: some unit has probability 0 wherever it could be")
        spans.append(Span(first, end, float(log_probs[first:end, token].mean(dtype=np.float64))))
    return spans


def best_path(log_probs: np.ndarray, labels: np.ndarray, skips: np.ndarray) -> np.ndarray:
    """Return the state of each frame on the best path, (t,), never falling.

    log_probs (t, v); labels (s,): the id of each state; skips (s,): whether the state before it may be left out.
    """
    t = len(log_probs)
    best = np.full(len(labels), -np.inf)
    moves = np.zeros((t, len(labels)), dtype=np.uint8)  # states advanced in a frame: 0, 1, 2
    for i in range(t):
        if i == 0:
            best[:2] = log_probs[0, labels[:2]]
            continue
        one, two = _shifted(best, 1), np.where(skips, _shifted(best, 2), -np.inf)
        moves[i] = np.where(two > np.maximum(best, one), 2, one > best)
        best = np.maximum(np.maximum(best, one), two) + log_probs[i, labels]

    at = len(labels) - 1 if len(labels) == 1 or best[-1] >= best[-2] else len(labels) - 2
    path = np.empty(t, dtype=np.int64)
    for i in reversed(range(t)):
        path[i] = at
        at -= int(moves[i, at])  # int, as uint8 would overflow
    return path


def _shifted(x: np.ndarray, by: int) -> np.ndarray:
    return np.concatenate([np.full(by, -np.inf), x])[: len(x)]
