"""Forced alignment: the place of a known text in the frames of a CTC head.

The result is the most probable alignment of the text, by Viterbi over the states blank, token, blank, token, ..., blank
(A. Graves et al., "Connectionist temporal classification", 2006, section 4.1, with the maximum in place of the sum).

    t  frames     u  tokens     s = 2 u + 1  states     v  ids, 0 is the CTC blank
"""

from __future__ import annotations

from collections.abc import Sequence
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


def align(log_probs: np.ndarray, tokens: Sequence[int]) -> list[Span]:
    """Return a span for each of `tokens` in log_probs (t, v), in order and without overlap.

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
    spans = []
    for u in range(len(ids)):
        frames = np.flatnonzero(path == 2 * u + 1)
        spans.append(Span(int(frames[0]), int(frames[-1]) + 1, float(log_probs[frames, ids[u]].mean(dtype=np.float64))))
    return spans


def _shifted(x: np.ndarray, by: int) -> np.ndarray:
    return np.concatenate([np.full(by, -np.inf), x])[: len(x)]
