"""Prefix beam search of a CTC head: the most probable token sequences, each with all its alignments added up.

A. Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs", 2014,
arXiv:1408.2873, algorithm 1.  All rows and beams advance together in numpy; a beam is a prefix y with, in logarithms,

    pb, pn   probability of all alignments of the frames seen that read y and end in blank / in the last token of y
    vb, vn   the same for the single best alignment, which is where the token times come from
    bonus    what a guide (`samba_asr.decoding.guide`: language model, lexicon, hotwords) makes of y; 0 without one
    credit   the part of the bonus that is taken back if y goes on otherwise: of hotwords that are not over

One frame changes them so (c is a token, | the end of y, p its probability in this frame):

    y stays     pb' = (pb + pn) p(blank)        pn' = pn p(y|)  [+ what y's parent gives when extended to y]
    y becomes yc               pn' = (pb + pn) p(c), but pb p(c) where c = y|: only a blank parts two equal tokens

and the beams kept are those with the best log(pb + pn) + bonus - credit; a quarter as many more may be kept for their credit, and
none is pruned for the credit of another.  What holds: with `beam` at least the number of prefixes,
`candidates` and `prune` None, `blank_skip` 1 and no guide, scores are exactly log P(tokens | frames).  Pruned, a score is
a lower bound of it.  With beam 1 the result is not the best path in general (a prefix is kept for the sum of its
alignments), but it is where every frame gives one id at least 0.9.  Every later beam continues a present one, so what all
beams share can never change: `stable_prefix`.

    b  rows     t  frames     v  ids     k, j, i  beams     c  candidate tokens     n  extensions, of all rows together
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from samba_asr.decoding.base import ALL, BLANK, Hypothesis, checked_lengths, take
from samba_asr.decoding.guide import Guide, Guided, Ways
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.ngram import mix
from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.config import SearchConfig

ROOMY = 64
"""From this beam on two prefixes are kept of those that a language model will never tell apart, so that whatever reads the n-best
has something to choose from.  Narrower ones have no room for that: on dev-5h a beam of 24 left 14.7 % with two, 14.1 with one."""

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
    bonus: np.ndarray  # (b, k) float64
    credit: np.ndarray  # (b, k) float64: the part of the bonus that may be taken back
    guide: np.ndarray  # (b, k) object: the guide's view of the prefix, None without a guide
    name: np.ndarray  # (b, k) uint64: hash of the prefix, and of how the guide reads it
    parent: np.ndarray  # (b, k) uint64: hash of the prefix without its last token
    future: np.ndarray  # (b, k) uint64: equal for prefixes that the guide will never tell apart
    path_b: np.ndarray  # (b, k) object: Node of the alignment behind vb
    path_n: np.ndarray  # (b, k) object: Node of the alignment behind vn
    frames: np.ndarray  # (b,) int64: frames seen


class PrefixBeam:
    """CTC prefix beam search.  `Hypothesis.score` is log P(tokens | frames), as far as the beam has seen it, + the bonus.

    beam:        prefixes kept a row, k.
    candidates:  a prefix is extended by that many of the frame's best tokens (None: by all).  Prefixes that are in the
                 beam already always get their due.
    blank_skip:  a frame whose blank has at least this probability is read as blank alone, which is much faster;
                 1 switches that off.
    prune:       an extension that is this much worse, in nats, than the row's best is not asked about (None: all are).
    recombine:   of prefixes that nothing said later can tell apart (`Guided.future`: the same word behind the same context of the
                 language model) at most so many are kept (None: all), as in decoding by WFST.  The others could only follow the
                 best, and would fill the beam with every combination of doubts that are long past.  For n rival texts: n.
    guide:       says what a prefix is worth beyond its frames, and which prefixes there are, in the rows where it has a view.
    `times` are the first frames of the tokens in the best alignment of that hypothesis the beam has seen.
    """

    takes = ALL

    def __init__(
        self,
        beam: int = 8,
        candidates: int | None = 10,
        blank_skip: float = 0.99,
        prune: float | None = 7.0,
        guide: Guide | None = None,
        recombine: int | None = None,
    ):
        counts = [beam, *(n for n in (candidates, recombine) if n is not None)]
        if min(counts) < 1 or not 0 < blank_skip <= 1 or (prune is not None and prune <= 0):
            raise UserError(
                f"prefix beam search needs beam >= 1, candidates >= 1 or None, 0 < blank_skip <= 1, prune > 0 or None and "
                f"recombine >= 1 or None, got beam={beam}, candidates={candidates}, blank_skip={blank_skip}, prune={prune}, "
                f"recombine={recombine}"
            )
        self.beam, self.candidates, self.blank_skip, self.recombine = beam, candidates, blank_skip, recombine
        self.prune = math.inf if prune is None else prune
        self.guide = guide

    @classmethod
    def from_config(cls, config: SearchConfig, guide: Guide | None = None, *, counts_words: bool = True) -> PrefixBeam:
        """See `samba_asr.decoding.base.Decoder`."""
        alike = max(2 if config.beam >= ROOMY else 1, config.nbest) if counts_words else None
        return cls(config.beam, prune=config.prune, recombine=alike, guide=guide)

    def init_state(self, batch: int, hotwords: Hotwords | None = None) -> BeamState:
        shape = (batch, self.beam + (-(-self.beam // 4) if self.guide else 0))
        never = np.full(shape, -np.inf)
        start = never.copy()
        start[:, 0] = 0.0
        name = np.zeros(shape, dtype=np.uint64)
        name[:, 0] = ROOT
        last, nothing = np.full(shape, NONE), np.zeros(shape, dtype=np.uint64)
        empty = np.empty(shape, dtype=object)  # filled with None
        guide, bonus, credit = empty.copy(), np.zeros(shape), np.zeros(shape)
        if hotwords is not None and self.guide is None:
            raise ValueError("hotwords need a search with a HotwordGuide")
        if self.guide and (first := self.guide.start(hotwords)) is not None:
            guide[:, 0], bonus[:, 0], credit[:, 0] = first, first.bonus, first.credit
        frames = np.zeros(batch, dtype=np.int64)
        return BeamState(
            start, never, start, never, last, bonus, credit, guide, name, nothing, name, empty, empty, frames
        )

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
                part = self._frame(part, frames[rows, t], tokens[rows, t], best[rows, t], silent[rows, t])
            state = part if everyone else _put(state, rows, part)
        return state

    def finish(self, state: BeamState) -> BeamState:
        """With a guide: each beam is worth what its text as a whole is, and beams are sorted anew."""
        if self.guide is None or not len(state.frames):
            return state
        guide, bonus, credit = state.guide.copy(), state.bonus.copy(), state.credit.copy()
        at, k = np.nonzero((np.logaddexp(state.pb, state.pn) > -np.inf) & (guide != None))  # noqa: E711 (elementwise)
        for r, i, whole in zip(at, k, self.guide.finish(guide[at, k].tolist()), strict=True):
            guide[r, i], bonus[r, i], credit[r, i] = whole, whole.bonus, whole.credit
        state = state._replace(guide=guide, bonus=bonus, credit=credit)
        order = np.argsort(-_score(state), axis=1, kind="stable")
        return BeamState(*(f if f.ndim == 1 else np.take_along_axis(f, order, axis=1) for f in state))

    def hypotheses(self, state: BeamState, nbest: int = 1, timed: bool = True) -> list[list[Hypothesis]]:
        score = _score(state)  # (b, k)
        path = np.where(state.vb >= state.vn, state.path_b, state.path_n)  # (b, k)
        used = (score > -np.inf).sum(axis=1)  # (b,)
        return [
            [
                _hypothesis(path[row, k], float(score[row, k]), self._words(state.guide[row, k]), timed)
                for k in range(max(1, min(nbest, used[row])))
            ]
            for row in range(len(score))
        ]

    def _words(self, guided: Guided | None) -> tuple[str, ...] | None:
        return None if guided is None else self.guide.words(guided)

    def _frame(
        self, s: BeamState, frame: np.ndarray, tokens: np.ndarray, best: np.ndarray, silent: np.ndarray
    ) -> BeamState:
        """One frame (b, v) whose candidates are `tokens` (b, c) with log-probabilities `best` (b, c).

        Rows marked `silent` (b,) are blank alone.
        """
        b, k = s.pb.shape
        blank = frame[:, BLANK, None]  # (b, 1)
        again = np.where(silent[:, None], -np.inf, np.take_along_axis(frame, np.maximum(s.last, 0), axis=1))  # (b, k)
        best = np.where(silent[:, None], -np.inf, best)
        p = np.logaddexp(s.pb, s.pn)  # (b, k)
        v = np.maximum(s.vb, s.vn)
        path = np.where(s.vb >= s.vn, s.path_b, s.path_n)

        # Stay.
        pb, pn = p + blank, s.pn + again
        vb, vn = v + blank, s.vn + again
        path_n = s.path_n.copy()

        # Merge: where beam i is the parent of beam j, i's extension by j's last token is j itself.
        beams = _Names(s.name, p > -np.inf)
        at, j = np.nonzero(p > -np.inf)
        i = beams.find(at, s.parent[at, j])
        at, j, i = (x[i >= 0] for x in (at, j, i))
        if len(at):
            twin = s.last[at, j] == s.last[at, i]
            pn[at, j] = np.logaddexp(pn[at, j], np.where(twin, s.pb[at, i], p[at, i]) + again[at, j])
            gain = np.where(twin, s.vb[at, i], v[at, i]) + again[at, j]
            at, j, i, twin, gain = (x[gain > vn[at, j]] for x in (at, j, i, twin, gain))
            vn[at, j] = gain
            path_n[at, j] = _nodes(np.where(twin, s.path_b[at, i], path[at, i]), s.last[at, j], s.frames[at])

        # Extend, by what is worth asking the guide about.
        double = tokens[:, None, :] == s.last[:, :, None]  # (b, k, c)
        more = np.where(double, s.pb[:, :, None], p[:, :, None]) + best[:, None, :]
        stay = np.logaddexp(pb, pn) + s.bonus  # (b, k)
        total = more + s.bonus[:, :, None]
        sure, asked = total - s.credit[:, :, None], total
        floor = np.maximum((stay - s.credit).max(axis=1), sure.max(axis=(1, 2))) - self.prune  # (b,)
        if s.credit.any():
            asked = np.maximum(total, sure)  # credit that is below 0 drops nothing either
        at, i, c = np.nonzero((asked >= floor[:, None, None]) & (total > -np.inf))
        token = tokens[at, c]
        ways = self._ways(s.guide[at, i], token)
        of, bonus, label, future, view, _ = ways
        credit = ways.credits
        at, i, c, token = (x[of] for x in (at, i, c, token))
        name = _name(s.name[at, i], token, label)
        fresh = np.flatnonzero(beams.find(at, name) < 0)  # the others are beams, and have had their due
        at, i, c, token, bonus, credit, name, future = (
            x[fresh] for x in (at, i, c, token, bonus, credit, name, future)
        )
        future = np.where(future == 0, name, future)
        twin = double[at, i, c]
        gain = np.where(twin, s.vb[at, i], v[at, i]) + best[at, c]

        # Keep the best k of the k that stay and the n new ones of each row.
        row = np.concatenate([np.repeat(np.arange(b), k), at])
        worth = np.concatenate([stay.ravel(), more[at, i, c] + bonus])
        if self.recombine:
            alike = mix(np.concatenate([s.future.ravel(), future]), np.concatenate([s.last.ravel(), token]))
            worth = _best_alike(worth, row, alike, self.recombine)
        kept = _best(worth, np.concatenate([s.credit.ravel(), credit]), row, b, self.beam, k)  # (b, k)
        dropped = worth[kept] == -np.inf
        never, nothing = np.full(len(at), -np.inf), np.full(len(at), None)

        def both(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            return np.concatenate([old.ravel(), new])[kept]

        path_b, path_n, guide = both(path, nothing), both(path_n, nothing), both(s.guide, nothing)
        r, slot = np.nonzero(kept >= b * k)
        n = kept[r, slot] - b * k
        before = np.where(twin[n], s.path_b[r, i[n]], path[r, i[n]])
        path_n[r, slot] = _nodes(before, token[n], s.frames[r])
        guide[r, slot] = np.fromiter(map(view, fresh[n].tolist()), dtype=object, count=len(n))
        pb, vb = both(pb, never), both(vb, never)
        pn, vn = both(pn, more[at, i, c]), both(vn, gain)
        for x in (pb, pn, vb, vn):
            x[dropped] = -np.inf
        return BeamState(
            pb=pb,
            pn=pn,
            vb=vb,
            vn=vn,
            last=both(s.last, token),
            bonus=both(s.bonus, bonus),
            credit=both(s.credit, credit),
            guide=guide,
            name=both(s.name, name),
            parent=both(s.parent, s.name[at, i]),
            future=both(s.future, future),
            path_b=path_b,
            path_n=path_n,
            frames=s.frames + 1,
        )

    def _ways(self, prefixes: np.ndarray, tokens: np.ndarray) -> Ways:
        """The ways to read prefixes (n,), views or None where there is no guide, made longer by tokens (n,)."""
        guided = np.flatnonzero(prefixes != None)  # noqa: E711 (elementwise)
        if len(guided) == len(prefixes) and self.guide:
            return self.guide.extend(prefixes.tolist(), tokens)
        alone = np.flatnonzero(prefixes == None)  # noqa: E711 (elementwise)
        nothing = np.zeros(len(alone), dtype=np.int64)
        free = Ways(alone, np.zeros(len(alone)), nothing, nothing.astype(np.uint64), lambda way: None)
        if not len(guided):
            return free
        ways = self.guide.extend(prefixes[guided].tolist(), tokens[guided])
        return ways._replace(of=guided[ways.of]).beside(free)


class _Names:
    """Which beam of a row is called so: in a sorted list of all rows' names, for a table of all pairs grows with k squared."""

    def __init__(self, name: np.ndarray, alive: np.ndarray):
        """name (b, k) uint64, alive (b, k) bool."""
        rows, self.beam = np.nonzero(alive)
        keys = self._key(rows, name[rows, self.beam])
        order = np.argsort(keys)
        self.keys, self.beam = keys[order], self.beam[order]

    def find(self, rows: np.ndarray, names: np.ndarray) -> np.ndarray:
        """rows (n,), names (n,) -> the beams (n,), -1 where there is none."""
        if not len(self.keys):
            return np.full(len(names), -1)
        keys = self._key(rows, names)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.beam[at], -1)

    @staticmethod
    def _key(rows: np.ndarray, names: np.ndarray) -> np.ndarray:
        return names ^ (rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


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


def _nodes(before: np.ndarray, token: np.ndarray, time: np.ndarray) -> np.ndarray:
    """(n,) each -> Nodes, (n,) object."""
    return np.fromiter(map(Node, before.tolist(), token.tolist(), time.tolist()), dtype=object, count=len(before))


def _score(s: BeamState) -> np.ndarray:
    return np.logaddexp(s.pb, s.pn) + s.bonus  # (b, k)


def _name(prefix: np.ndarray, token: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Hash of `prefix` with `token` appended, read as `label`; of 64 bits, so a clash is out of reach."""
    mixed = prefix
    for part, salt in ((token, 0x9E3779B97F4A7C15), (label, 0xD6E8FEB86659FD93)):
        mixed = (mixed ^ (part.astype(np.uint64) + np.uint64(salt))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = mixed ^ (mixed >> np.uint64(29))
    return mixed


def _best(worth: np.ndarray, credit: np.ndarray, row: np.ndarray, rows: int, k: int, width: int) -> np.ndarray:
    """Which ones to keep of each row, best first, (b, width): the best `k` without credit, then of the others those with credit.

    worth, credit (n,); the `worth` of what is not kept becomes -inf, and fills the places that are left.
    """
    with_credit = credit.any()
    order = np.lexsort((credit - worth if with_credit else -worth, row))
    first = np.searchsorted(row[order], np.arange(rows))
    rank = np.empty(len(row), dtype=np.int64)
    rank[order] = np.arange(len(row)) - first[row[order]]
    worth[(rank >= k) & (credit == 0)] = -np.inf
    if with_credit:
        order = np.lexsort((-worth, rank >= k, row))
    kept = order[first[:, None] + np.arange(width)]
    return np.take_along_axis(kept, np.argsort(-worth[kept], axis=1, kind="stable"), axis=1) if with_credit else kept


def _best_alike(worth: np.ndarray, row: np.ndarray, alike: np.ndarray, count: int) -> np.ndarray:
    """`worth` (n,) with -inf for all but the best `count` of those of a row that are alike."""
    order = np.lexsort((-worth, alike, row))
    row, alike = row[order], alike[order]
    first = np.flatnonzero(np.concatenate([[True], (row[1:] != row[:-1]) | (alike[1:] != alike[:-1])]))
    rank = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    worth = worth.copy()
    worth[order[rank >= count]] = -np.inf
    return worth


def _put(state: BeamState, rows: np.ndarray, part: BeamState) -> BeamState:
    """`state` with its `rows` replaced by those of `part`."""
    fields = [field.copy() for field in state]
    for field, values in zip(fields, part, strict=True):
        field[rows] = values
    return BeamState(*fields)


def _hypothesis(path: Node | None, score: float, words: tuple[str, ...] | None, timed: bool) -> Hypothesis:
    if words is not None and not timed:
        return Hypothesis((), score, (), words)
    tokens, times = [], []
    while path is not None:
        tokens.append(path.token)
        times.append(path.time)
        path = path.before
    return Hypothesis(tuple(reversed(tokens)), score, tuple(reversed(times)), words)
