"""Prefix beam search of a CTC head: the most probable token sequences, each with all its alignments added up.

A. Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs", 2014,
arXiv:1408.2873, algorithm 1, without the language model.  All rows and beams advance together in numpy; a beam is a
prefix y with, in logarithms,

    pb, pn   probability of all alignments of the frames seen that read y and end in blank / in the last token of y
    vb, vn   the same for the single best alignment, which is where the token times come from

One frame changes them so (c is a token, | the end of y, p its probability in this frame):

    y stays     pb' = (pb + pn) p(blank)        pn' = pn p(y|)  [+ what y's parent gives when extended to y]
    y becomes yc               pn' = (pb + pn) p(c), but pb p(c) where c = y|: only a blank parts two equal tokens

What holds: with `beam` at least the number of prefixes, `candidates` None and `blank_skip` 1, scores are exactly
log P(tokens | frames).  Pruned, a score is a lower bound of it.  With beam 1 the result is not the best path in general
(a prefix is kept for the sum of its alignments), but it is where every frame gives one id at least 0.9.  Every later
beam continues a present one, so what all beams share can never change: `stable_prefix`.

    b  rows     t  frames     v  ids     k, j, i  beams     c  candidate tokens
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from samba_asr.decoding.base import BLANK, Hypothesis, checked_lengths, take
from samba_asr.errors import UserError

NONE = -1  # the last token of the empty prefix
ROOT = np.uint64(1)  # the empty prefix


class Node(NamedTuple):
    """The last token of an alignment, None before the first.  Nothing else refers to those of a dropped beam."""

    before: Node | None
    token: int
    time: int


class BeamState(NamedTuple):
    """Beams of a row are sorted, best first; those with pb = pn = -inf are unused."""

    pb: np.ndarray  # (b, k) float64
    pn: np.ndarray  # (b, k) float64
    vb: np.ndarray  # (b, k) float64
    vn: np.ndarray  # (b, k) float64
    last: np.ndarray  # (b, k) int64: last token
    name: np.ndarray  # (b, k) uint64: hash of the prefix
    parent: np.ndarray  # (b, k) uint64: hash of the prefix without its last token
    path_b: np.ndarray  # (b, k) object: Node of the alignment behind vb
    path_n: np.ndarray  # (b, k) object: Node of the alignment behind vn
    frames: np.ndarray  # (b,) int64: frames seen


class PrefixBeam:
    """CTC prefix beam search.  `Hypothesis.score` is log P(tokens | frames), as far as the beam has seen it.

    beam:        prefixes kept a row, k.
    candidates:  a prefix is extended by that many of the frame's best tokens (None: by all).  Prefixes that are in the
                 beam already always get their due.
    blank_skip:  a frame whose blank has at least this probability is read as blank alone, which is much faster;
                 1 switches that off.
    `times` are the first frames of the tokens in the best alignment of that hypothesis the beam has seen.
    """

    def __init__(self, beam: int = 8, candidates: int | None = 10, blank_skip: float = 0.99):
        if beam < 1 or (candidates is not None and candidates < 1) or not 0 < blank_skip <= 1:
            raise UserError(
                f"prefix beam search needs beam >= 1, candidates >= 1 or None and 0 < blank_skip <= 1, "
                f"got beam={beam}, candidates={candidates}, blank_skip={blank_skip}"
            )
        self.beam, self.candidates, self.blank_skip = beam, candidates, blank_skip

    def init_state(self, batch: int) -> BeamState:
        shape = (batch, self.beam)
        never = np.full(shape, -np.inf)
        start = never.copy()
        start[:, 0] = 0.0
        name = np.zeros(shape, dtype=np.uint64)
        name[:, 0] = ROOT
        last, nothing = np.full(shape, NONE), np.zeros(shape, dtype=np.uint64)
        empty = np.empty(shape, dtype=object)  # filled with None
        return BeamState(start, never, start, never, last, name, nothing, empty, empty, np.zeros(batch, dtype=np.int64))

    def step(self, log_probs: torch.Tensor, lengths: torch.Tensor, state: BeamState) -> BeamState:
        counts = checked_lengths(log_probs, lengths, len(state.frames))
        if not counts.any():
            return state
        x = log_probs.detach()[:, : int(counts.max())].to("cpu", torch.float64)  # (b, t, v)
        c = min(self.candidates or x.shape[-1], x.shape[-1] - 1)
        best, tokens = x[..., BLANK + 1 :].topk(c)  # (b, t, c)
        frames, best, tokens = x.numpy(), best.numpy(), tokens.numpy() + BLANK + 1
        silent = frames[..., BLANK] >= math.log(self.blank_skip)  # (b, t)
        for t in range(frames.shape[1]):
            rows = np.flatnonzero(t < counts)
            everyone = len(rows) == len(counts)
            part = state if everyone else take(state, rows)
            if silent[rows, t].all():
                part = _blank_frame(part, frames[rows, t, BLANK])
            else:
                part = _frame(part, frames[rows, t], tokens[rows, t], best[rows, t], silent[rows, t])
            state = part if everyone else _put(state, rows, part)
        return state

    def finish(self, state: BeamState) -> BeamState:
        return state

    def hypotheses(self, state: BeamState, nbest: int = 1) -> list[list[Hypothesis]]:
        score = np.logaddexp(state.pb, state.pn)  # (b, k)
        path = np.where(state.vb >= state.vn, state.path_b, state.path_n)  # (b, k)
        used = (score > -np.inf).sum(axis=1)  # (b,)
        return [
            [_hypothesis(path[row, k], float(score[row, k])) for k in range(max(1, min(nbest, used[row])))]
            for row in range(len(score))
        ]


def stable_prefix(hypotheses: Sequence[Hypothesis]) -> tuple[int, ...]:
    """The tokens all `hypotheses` begin with.

    Given all beams of a row, `PrefixBeam.hypotheses(state, nbest=beam)[row]`, these tokens are final: whatever follows,
    every later hypothesis of that row begins with them.  It can lag far behind: a doubt holds it up as long as beams
    differ there.
    """
    if not hypotheses:
        return ()
    # The least and the greatest in lexical order share no more than all do.
    low, high = min(h.tokens for h in hypotheses), max(h.tokens for h in hypotheses)
    same = (i for i, (x, y) in enumerate(zip(low, high, strict=False)) if x != y)
    return low[: next(same, min(len(low), len(high)))]


def _blank_frame(s: BeamState, blank: np.ndarray) -> BeamState:
    """A frame that is blank and nothing else, `blank` (b,): every prefix stays, so no search."""
    gone = np.full_like(s.pn, -np.inf)
    return s._replace(
        pb=np.logaddexp(s.pb, s.pn) + blank[:, None],
        pn=gone,
        vb=np.maximum(s.vb, s.vn) + blank[:, None],
        vn=gone,
        path_b=np.where(s.vb >= s.vn, s.path_b, s.path_n),
        frames=s.frames + 1,
    )


def _frame(s: BeamState, frame: np.ndarray, tokens: np.ndarray, best: np.ndarray, silent: np.ndarray) -> BeamState:
    """One frame (b, v) whose candidates are `tokens` (b, c) with log-probabilities `best` (b, c).

    Rows marked `silent` (b,) are blank alone.
    """
    b, k = s.pb.shape
    c = tokens.shape[1]
    row = np.arange(b)[:, None]
    blank = frame[:, BLANK, None]  # (b, 1)
    again = np.where(silent[:, None], -np.inf, np.take_along_axis(frame, np.maximum(s.last, 0), axis=1))  # (b, k)
    best = np.where(silent[:, None], -np.inf, best)
    p = np.logaddexp(s.pb, s.pn)  # (b, k)
    v = np.maximum(s.vb, s.vn)
    path = np.where(s.vb >= s.vn, s.path_b, s.path_n)

    # Stay.
    pb, pn = p + blank, s.pn + again
    vb, vn = v + blank, s.vn + again
    path_b, path_n = path, s.path_n

    # Extend.  A language model would add its score of the token here, and in the merge below.
    double = tokens[:, None, :] == s.last[:, :, None]  # (b, k, c)
    more_p = np.where(double, s.pb[:, :, None], p[:, :, None]) + best[:, None, :]
    more_v = np.where(double, s.vb[:, :, None], v[:, :, None]) + best[:, None, :]

    # Merge: where beam i is the parent of beam j, i's extension by j's last token is j itself.
    alive = p > -np.inf
    match = (s.parent[:, :, None] == s.name[:, None, :]) & alive[:, :, None] & alive[:, None, :]  # (b, j, i)
    at, j, i = np.nonzero(match)
    if len(at):
        twin = s.last[at, j] == s.last[at, i]
        pn[at, j] = np.logaddexp(pn[at, j], np.where(twin, s.pb[at, i], p[at, i]) + again[at, j])
        gain = np.where(twin, s.vb[at, i], v[at, i]) + again[at, j]
        path_n = path_n.copy()  # still the old state's
        for n in np.flatnonzero(gain > vn[at, j]):
            source = s.path_b if twin[n] else path
            vn[at[n], j[n]] = gain[n]
            path_n[at[n], j[n]] = Node(source[at[n], i[n]], int(s.last[at[n], j[n]]), int(s.frames[at[n]]))
        found, same = np.nonzero(tokens[at] == s.last[at, j][:, None])
        more_p[at[found], i[found], same] = -np.inf

    # Keep the best k of the k that stay and the k * c new ones.
    scores = np.concatenate([np.logaddexp(pb, pn), more_p.reshape(b, k * c)], axis=1)
    kept = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # (b, k)
    new = kept >= k
    beam, which = np.where(new, (kept - k) // c, kept), np.where(new, (kept - k) % c, 0)
    token = np.where(new, tokens[row, which], s.last[row, beam])
    born = new & (scores[row, kept] > -np.inf)
    path_n = np.where(new, None, path_n[row, beam])
    for r, n in zip(*np.nonzero(born), strict=True):
        source = (s.path_b if double[r, beam[r, n], which[r, n]] else path)[r, beam[r, n]]
        path_n[r, n] = Node(source, int(token[r, n]), int(s.frames[r]))
    return BeamState(
        pb=np.where(new, -np.inf, pb[row, beam]),
        pn=np.where(new, more_p[row, beam, which], pn[row, beam]),
        vb=np.where(new, -np.inf, vb[row, beam]),
        vn=np.where(new, more_v[row, beam, which], vn[row, beam]),
        last=token,
        name=np.where(new, _name(s.name[row, beam], token), s.name[row, beam]),
        parent=np.where(new, s.name[row, beam], s.parent[row, beam]),
        path_b=np.where(new, None, path_b[row, beam]),
        path_n=path_n,
        frames=s.frames + 1,
    )


def _name(prefix: np.ndarray, token: np.ndarray) -> np.ndarray:
    """Hash of `prefix` with `token` appended; of 64 bits, for k * k comparisons a frame: a clash is out of reach."""
    mixed = (prefix ^ (token.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(29))


def _put(state: BeamState, rows: np.ndarray, part: BeamState) -> BeamState:
    """`state` with its `rows` replaced by those of `part`."""
    fields = [field.copy() for field in state]
    for field, values in zip(fields, part, strict=True):
        field[rows] = values
    return BeamState(*fields)


def _hypothesis(path: Node | None, score: float) -> Hypothesis:
    tokens, times = [], []
    while path is not None:
        tokens.append(path.token)
        times.append(path.time)
        path = path.before
    return Hypothesis(tuple(reversed(tokens)), score, tuple(reversed(times)))
