"""Prefix beam search of a CTC head: the most probable token sequences, each with all its alignments added up.

A. Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs", 2014,
arXiv:1408.2873, algorithm 1.  All rows and beams advance together in numpy; a beam is a prefix y with, in logarithms,

    pb, pn   probability of all alignments of the frames seen that read y and end in blank / in the last token of y
    vb, vn   the same for the single best alignment, which is where the token times come from
    bonus    score of y by a guide (`samba_asr.decoding.guide`: language model, lexicon, hotwords); 0 without a guide
    credit   part of the bonus that is taken back if y continues otherwise: that of incomplete hotwords

One frame changes them as follows (c is a token, | the end of y, p its probability in this frame):

    y stays     pb' = (pb + pn) p(blank)        pn' = pn p(y|)  [+ what y's parent gives when extended to y]
    y becomes yc               pn' = (pb + pn) p(c), but pb p(c) where c = y|: only a blank separates two equal tokens

The beams with the best log(pb + pn) + bonus - credit are kept.  A quarter as many more may be kept for their credit; no beam is
pruned for the credit of another.

Scores are exactly log P(tokens | frames) if `beam` is at least the number of prefixes, `candidates` and `prune` are None,
`blank_skip` is 1 and there is no guide.  With pruning a score is a lower bound of that.  With beam 1 the result is in general
not the best path, because a prefix is kept for the sum of its alignments.  It is the best path where every frame gives one id
at least 0.9.  Every later beam continues a present one, so a prefix common to all beams can never change: `stable_prefix`.

    b  rows     t  frames     v  ids     k, j, i  beams     c  candidate tokens     n  extensions, of all rows together
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from samba_asr.decoding.base import ALL, BLANK, Hypothesis, checked_lengths, frames_of, take
from samba_asr.decoding.guide import Extensions, Guide, GuidedPrefix, Guides, first_view
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.joins import Dropped, Joins, Node, Place, join, nodes_of, reading_after
from samba_asr.decoding.joins import lattice as lattice_of
from samba_asr.decoding.lattice import Lattice
from samba_asr.decoding.ngram import mix
from samba_asr.decoding.words import WordGuide
from samba_asr.errors import UserError

if TYPE_CHECKING:
    import torch

    from samba_asr.config import SearchConfig

ROOMY = 64
"""From this beam width on, two prefixes with one recombination key are kept for a second pass, which chooses from them.
Without one they are only in the way: on dev-5h, WER with a beam of 128 is 11.5 % with two and 11.3 % with one, with a beam of 24
14.7 and 14.1 %.  What is dropped is in the lattice."""

NONE = -1  # the last token of the empty prefix
ROOT = np.uint64(1)  # the empty prefix


def most_alike(config: SearchConfig, counts_words: bool) -> int | None:
    """Return how many prefixes with one recombination key are kept (None: all).  counts_words: whether there is an n-gram."""
    return max(2 if config.beam >= ROOMY and config.rescore else 1, config.nbest) if counts_words else None


def checked_options(
    beam: int, candidates: int | None, blank_skip: float, prune: float | None, recombine: int | None
) -> None:
    """Raise UserError for options that no prefix beam search takes."""
    counts = [beam, *(n for n in (candidates, recombine) if n is not None)]
    if min(counts) < 1 or not 0 < blank_skip <= 1 or (prune is not None and prune <= 0):
        raise UserError(
            f"prefix beam search needs beam >= 1, candidates >= 1 or None, 0 < blank_skip <= 1, prune > 0 or None and "
            f"recombine >= 1 or None, got beam={beam}, candidates={candidates}, blank_skip={blank_skip}, prune={prune}, "
            f"recombine={recombine}"
        )


class BeamState(NamedTuple):
    """State of the search.  Beams of a row are sorted, best first; those with pb = pn = -inf are unused."""

    pb: np.ndarray  # (b, k) float64
    pn: np.ndarray  # (b, k) float64
    vb: np.ndarray  # (b, k) float64
    vn: np.ndarray  # (b, k) float64
    last: np.ndarray  # (b, k) int64: last token
    bonus: np.ndarray  # (b, k) float64
    credit: np.ndarray  # (b, k) float64: part of the bonus that may be taken back
    guide: np.ndarray  # (b, k) object: the guide's view of the prefix, None without a guide
    name: np.ndarray  # (b, k) uint64: hash of the prefix and of its reading by the guide
    parent: np.ndarray  # (b, k) uint64: hash of the prefix without its last token
    recombination: np.ndarray  # (b, k) uint64: key, equal for prefixes that the guide will never tell apart
    path_b: np.ndarray  # (b, k) object: Node of the alignment that vb scores
    path_n: np.ndarray  # (b, k) object: Node of the alignment that vn scores
    reading: np.ndarray  # (b, k) object: Reading, the last word read; None before the first one ends
    joins: np.ndarray  # (b,) object: Joins, what recombination dropped; None without a lattice
    frames: np.ndarray  # (b,) int64: frames seen


class PrefixBeam:
    """CTC prefix beam search.  `Hypothesis.score` is log P(tokens | frames) over the alignments in the beam, plus the bonus.

    beam:        int.  Prefixes kept in a row, k.
    candidates:  int or None.  Each prefix is extended by so many of the frame's best tokens (None: by all).  A prefix that is in
                 the beam already always receives the probability of its parent.
    blank_skip:  probability.  A frame whose blank has at least this probability is read as blank alone, which is much faster;
                 1 switches that off.
    prune:       nats or None.  The guide does not score an extension that is this much worse than the row's best (None: it
                 scores all).
    recombine:   int or None.  At most so many prefixes with one recombination key (`GuidedPrefix.recombination`: the same word
                 after the same context of the language model) are kept (None: all), as in decoding by WFST.  The others could
                 only follow the best, and would fill the beam with combinations of old doubts.  For n-best lists of n: n.
    guide:       scores prefixes beyond their frames, and may forbid them, in rows where it has a view.
    lattice:     nats or None.  What recombination drops within so many of the frame's best is kept for `lattices`, if there are
                 words (None: nothing is).  Hypotheses are the same with it.
    `times` are the first frames of the tokens in the best alignment of that hypothesis in the beam.
    """

    takes: ClassVar[frozenset[str]] = ALL

    def __init__(
        self,
        beam: int = 8,
        candidates: int | None = 10,
        blank_skip: float = 0.99,
        prune: float | None = 7.0,
        guide: Guide | None = None,
        recombine: int | None = None,
        lattice: float | None = None,
    ):
        checked_options(beam, candidates, blank_skip, prune, recombine)
        self.beam, self.candidates, self.blank_skip, self.recombine = beam, candidates, blank_skip, recombine
        self.prune = math.inf if prune is None else prune
        self.guide = guide
        words = guide.guides[0] if isinstance(guide, Guides) else guide
        self.lattice = lattice if isinstance(words, WordGuide) else None
        self._begins = words.begins if isinstance(words, WordGuide) else np.zeros(0, dtype=bool)

    @classmethod
    def from_config(cls, config: SearchConfig, guide: Guide | None = None, *, counts_words: bool = True) -> PrefixBeam:
        """See `samba_asr.decoding.base.Search`."""
        recombine = most_alike(config, counts_words)
        return cls(config.beam, prune=config.prune, recombine=recombine, guide=guide, lattice=config.lattice or None)

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
        frames, joins = np.zeros(batch, dtype=np.int64), np.empty(batch, dtype=object)
        return BeamState(
            start,
            never,
            start,
            never,
            last,
            bonus,
            credit,
            guide,
            name,
            nothing,
            name,
            empty,
            empty,
            empty,
            joins,
            frames,
        )

    def step(
        self, log_probs: torch.Tensor | np.ndarray, lengths: torch.Tensor | np.ndarray, state: BeamState
    ) -> BeamState:
        counts = checked_lengths(log_probs, lengths, len(state.frames))
        if not counts.any():
            return state
        frames = frames_of(log_probs, int(counts.max()))  # (b, t, v)
        c = min(self.candidates or frames.shape[-1], frames.shape[-1] - 1)
        # Stable, so that of equal tokens the one with the lower id comes first.
        tokens = np.argsort(-frames[..., BLANK + 1 :], axis=-1, kind="stable")[..., :c] + BLANK + 1  # (b, t, c)
        best = np.take_along_axis(frames, tokens, axis=-1)
        silent = frames[..., BLANK] >= math.log(self.blank_skip)  # (b, t)
        for t in range(frames.shape[1]):
            there = t < counts
            for rows in (np.flatnonzero(there & silent[:, t]), np.flatnonzero(there & ~silent[:, t])):
                if not len(rows):
                    continue
                everyone = len(rows) == len(counts)
                part = state if everyone else take(state, rows)
                if silent[rows[0], t]:
                    part = _blank_frame(part, frames[rows, t, BLANK])
                else:
                    part = self._frame(part, frames[rows, t], tokens[rows, t], best[rows, t])
                state = part if everyone else _put(state, rows, part)
        return state

    def finish(self, state: BeamState) -> BeamState:
        """Score each beam as a whole text by the guide, if there is one, and sort the beams again."""
        if self.guide is None or not len(state.frames):
            return state
        guide, bonus, credit = state.guide.copy(), state.bonus.copy(), state.credit.copy()
        reading = state.reading.copy()
        at, k = np.nonzero((np.logaddexp(state.pb, state.pn) > -np.inf) & (guide != None))  # noqa: E711 (elementwise)
        for r, i, whole in zip(at, k, self.guide.finish(guide[at, k].tolist()), strict=True):
            guide[r, i], bonus[r, i], credit[r, i] = whole, whole.bonus, whole.credit
            reading[r, i] = reading_after(reading[r, i], first_view(state.guide[r, i]), first_view(whole), whole.bonus)
        state = state._replace(guide=guide, bonus=bonus, credit=credit, reading=reading)
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

    def lattices(self, state: BeamState) -> list[Lattice | None]:
        """Return the lattice of each row of a finished state; None without `lattice`, or without words."""
        if self.lattice is None:
            return [None] * len(state.frames)
        found, score = [], _score(state)
        for row in range(len(score)):
            used = np.flatnonzero(score[row] > -np.inf).tolist()
            better = state.vb[row] >= state.vn[row]
            paths = np.where(better, state.path_b[row], state.path_n[row])
            viterbi = np.maximum(state.vb[row], state.vn[row])
            ends = [Place(state.reading[row, k], paths[k], float(viterbi[k]), float(state.bonus[row, k])) for k in used]
            found.append(lattice_of(ends, state.joins[row], self._begins, int(state.frames[row])))
        return found

    def _words(self, guided: GuidedPrefix | None) -> tuple[str, ...] | None:
        return None if guided is None or self.guide is None else self.guide.words(guided)

    def _frame(self, s: BeamState, frame: np.ndarray, tokens: np.ndarray, best: np.ndarray) -> BeamState:
        """Advance by one frame (b, v) with candidates `tokens` (b, c), whose log-probabilities are `best` (b, c)."""
        b, k = s.pb.shape
        blank = frame[:, BLANK, None]  # (b, 1)
        again = np.take_along_axis(frame, np.maximum(s.last, 0), axis=1)  # (b, k)
        p = np.logaddexp(s.pb, s.pn)  # (b, k)
        v = np.maximum(s.vb, s.vn)
        path = np.where(s.vb >= s.vn, s.path_b, s.path_n)

        # Stay.
        pb, pn = p + blank, s.pn + again
        vb, vn = v + blank, s.vn + again
        path_n = s.path_n.copy()

        # Merge: where beam i is the parent of beam j, i's extension by j's last token is j itself.
        beams = _BeamIndex(s.name, p > -np.inf)
        at, j = np.nonzero(p > -np.inf)
        i = beams.find(at, s.parent[at, j])
        at, j, i = (x[i >= 0] for x in (at, j, i))
        if len(at):
            twin = s.last[at, j] == s.last[at, i]
            pn[at, j] = np.logaddexp(pn[at, j], np.where(twin, s.pb[at, i], p[at, i]) + again[at, j])
            before = np.where(twin, s.vb[at, i], v[at, i])
            gain = before + again[at, j]
            at, j, i, twin, before, gain = (x[gain > vn[at, j]] for x in (at, j, i, twin, before, gain))
            vn[at, j] = gain
            path_n[at, j] = nodes_of(np.where(twin, s.path_b[at, i], path[at, i]), s.last[at, j], s.frames[at], before)

        # Extend.  The guide scores only extensions that survive pruning.
        double = tokens[:, None, :] == s.last[:, :, None]  # (b, k, c)
        more = np.where(double, s.pb[:, :, None], p[:, :, None]) + best[:, None, :]
        stay = np.logaddexp(pb, pn) + s.bonus  # (b, k)
        total = more + s.bonus[:, :, None]
        sure, asked = total - s.credit[:, :, None], total
        floor = np.maximum((stay - s.credit).max(axis=1), sure.max(axis=(1, 2))) - self.prune  # (b,)
        if s.credit.any():
            asked = np.maximum(total, sure)  # negative credit drops nothing either
        at, i, c = np.nonzero((asked >= floor[:, None, None]) & (total > -np.inf))
        token = tokens[at, c]
        extensions = self._extensions(s.guide[at, i], token)
        of, bonus, label, recombination, view, _ = extensions
        credit = extensions.credits
        at, i, c, token = (x[of] for x in (at, i, c, token))
        name = _name(s.name[at, i], token, label)
        fresh = np.flatnonzero(beams.find(at, name) < 0)  # the rest are beams already; they were merged above
        at, i, c, token, bonus, credit, name, recombination = (
            x[fresh] for x in (at, i, c, token, bonus, credit, name, recombination)
        )
        recombination = np.where(recombination == 0, name, recombination)
        twin = double[at, i, c]
        before_token = np.where(twin, s.vb[at, i], v[at, i])
        gain = before_token + best[at, c]

        lost = leader = np.zeros(0, dtype=np.int64)
        # Keep the best k of the k that stay and the n new ones of each row.
        row = np.concatenate([np.repeat(np.arange(b), k), at])
        score = np.concatenate([stay.ravel(), more[at, i, c] + bonus])
        if self.recombine:
            alike = mix(
                np.concatenate([s.recombination.ravel(), recombination]), np.concatenate([s.last.ravel(), token])
            )
            whole = score
            score, leader = _best_alike(score, row, alike, self.recombine)
            if self.lattice is not None:
                lost = _lost(whole, score, row, b, self.lattice)
        kept = _best(score, np.concatenate([s.credit.ravel(), credit]), row, b, self.beam, k)  # (b, k)
        dropped = score[kept] == -np.inf
        never, nothing = np.full(len(at), -np.inf), np.full(len(at), None)

        def both(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            return np.concatenate([old.ravel(), new])[kept]

        old_path_n = path_n
        path_b, path_n, guide = both(path, nothing), both(path_n, nothing), both(s.guide, nothing)
        r, slot = np.nonzero(kept >= b * k)
        n = kept[r, slot] - b * k
        before = np.where(twin[n], s.path_b[r, i[n]], path[r, i[n]])
        path_n[r, slot] = nodes_of(before, token[n], s.frames[r], before_token[n])
        guide[r, slot] = np.fromiter(map(view, fresh[n].tolist()), dtype=object, count=len(n))
        old_vb, old_vn = vb, vn
        pb, vb = both(pb, never), both(vb, never)
        pn, vn = both(pn, more[at, i, c]), both(vn, gain)
        reading, kept_bonus = both(s.reading, nothing), both(s.bonus, bonus)
        readings: Any = s.reading
        views: Any = s.guide
        paths_b: Any = s.path_b
        paths: Any = path
        if self.lattice is not None:
            for y, o, x in zip(r.tolist(), slot.tolist(), n.tolist(), strict=True):
                old, new = views[y, i[x]], guide[y, o]
                reading[y, o] = reading_after(readings[y, i[x]], first_view(old), first_view(new), kept_bonus[y, o])

        def place(x: int) -> Place:
            """Where a candidate is that may be kept or not."""
            if x < b * k:
                y, j = divmod(x, k)
                first = old_vb[y, j] >= old_vn[y, j]
                there = paths[y, j] if first else old_path_n[y, j]
                return Place(readings[y, j], there, max(old_vb[y, j], old_vn[y, j]), s.bonus[y, j])
            x -= b * k
            y, j, new = at[x], i[x], view(int(fresh[x]))
            before = paths_b[y, j] if twin[x] else paths[y, j]
            node = Node(before, int(token[x]), int(s.frames[y]), float(before_token[x]))
            read = reading_after(readings[y, j], first_view(views[y, j]), first_view(new), bonus[x])
            return Place(read, node, gain[x], bonus[x])

        joins = s.joins
        if len(lost):
            joins = joins.copy()
            slots = np.full(len(row), -1)
            slots[kept] = np.where(dropped, -1, np.arange(kept.shape[1]))
            found: dict[int, list[Dropped]] = {}
            for x, first in zip(lost.tolist(), leader[lost].tolist(), strict=True):
                y, o = int(row[x]), int(slots[first])
                if o < 0:
                    continue
                best_path = (path_b if vb[y, o] >= vn[y, o] else path_n)[y, o]
                survivor = Place(reading[y, o], best_path, float(max(vb[y, o], vn[y, o])), float(kept_bonus[y, o]))
                if (one := join(place(x), survivor, self._begins)) is not None:
                    found.setdefault(y, []).append(one)
            for y, some in found.items():
                joins[y] = Joins(joins[y], tuple(some))
        for x in (pb, pn, vb, vn):
            x[dropped] = -np.inf
        return BeamState(
            pb=pb,
            pn=pn,
            vb=vb,
            vn=vn,
            last=both(s.last, token),
            bonus=kept_bonus,
            credit=both(s.credit, credit),
            guide=guide,
            name=both(s.name, name),
            parent=both(s.parent, s.name[at, i]),
            recombination=both(s.recombination, recombination),
            path_b=path_b,
            path_n=path_n,
            reading=reading,
            joins=joins,
            frames=s.frames + 1,
        )

    def _extensions(self, prefixes: np.ndarray, tokens: np.ndarray) -> Extensions:
        """Extend prefixes (n,), views or None where the guide has none, by tokens (n,)."""
        guided = np.flatnonzero(prefixes != None)  # noqa: E711 (elementwise)
        if self.guide is not None and len(guided) == len(prefixes):
            return self.guide.extend(prefixes.tolist(), tokens)
        alone = np.flatnonzero(prefixes == None)  # noqa: E711 (elementwise)
        nothing = np.zeros(len(alone), dtype=np.int64)
        free = Extensions(alone, np.zeros(len(alone)), nothing, nothing.astype(np.uint64), lambda i: None)
        if self.guide is None or not len(guided):
            return free
        extensions = self.guide.extend(prefixes[guided].tolist(), tokens[guided])
        return extensions._replace(of=guided[extensions.of]).merge(free)


class _BeamIndex:
    """Index from the name of a beam to its place in a row: a sorted list of all names; a table of pairs would grow with k^2."""

    def __init__(self, name: np.ndarray, alive: np.ndarray):
        """name (b, k) uint64, alive (b, k) bool."""
        rows, self.beam = np.nonzero(alive)
        keys = self._key(rows, name[rows, self.beam])
        order = np.argsort(keys)
        self.keys, self.beam = keys[order], self.beam[order]

    def find(self, rows: np.ndarray, names: np.ndarray) -> np.ndarray:
        """Look up rows (n,), names (n,) -> the beams (n,), -1 where there is none."""
        if not len(self.keys):
            return np.full(len(names), -1)
        keys = self._key(rows, names)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.beam[at], -1)

    @staticmethod
    def _key(rows: np.ndarray, names: np.ndarray) -> np.ndarray:
        return names ^ (rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def stable_prefix(hypotheses: Sequence[Hypothesis]) -> tuple[int, ...]:
    """Return the tokens with which all `hypotheses` begin.

    Given all beams of a row, `PrefixBeam.hypotheses(state, nbest=beam)[row]`, these tokens are final: every later hypothesis of
    that row begins with them.  They can lag far: an early difference between beams holds them up.
    """
    if not hypotheses:
        return ()
    # The least and the greatest in lexical order share no more than all do.
    low, high = min(h.tokens for h in hypotheses), max(h.tokens for h in hypotheses)
    same = (i for i, (x, y) in enumerate(zip(low, high, strict=False)) if x != y)
    return low[: next(same, min(len(low), len(high)))]


def _blank_frame(s: BeamState, blank: np.ndarray) -> BeamState:
    """Advance by a frame that is blank alone, with log-probability `blank` (b,): every prefix stays."""
    gone = np.full_like(s.pn, -np.inf)
    return s._replace(
        pb=np.logaddexp(s.pb, s.pn) + blank[:, None],
        pn=gone,
        vb=np.maximum(s.vb, s.vn) + blank[:, None],
        vn=gone,
        path_b=np.where(s.vb >= s.vn, s.path_b, s.path_n),
        frames=s.frames + 1,
    )


def _score(s: BeamState) -> np.ndarray:
    return np.logaddexp(s.pb, s.pn) + s.bonus  # (b, k)


def _name(prefix: np.ndarray, token: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Hash `prefix` with `token` appended, read as `label`.  The hash has 64 bits, so collisions are negligible."""
    mixed = prefix
    for part, salt in ((token, 0x9E3779B97F4A7C15), (label, 0xD6E8FEB86659FD93)):
        mixed = (mixed ^ (part.astype(np.uint64) + np.uint64(salt))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = mixed ^ (mixed >> np.uint64(29))
    return mixed


def _best(score: np.ndarray, credit: np.ndarray, row: np.ndarray, rows: int, k: int, width: int) -> np.ndarray:
    """Choose what to keep of each row, best first, (b, width): the best `k` without credit, then others that have credit.

    score, credit (n,).  What is not kept gets the score -inf and fills the places that are left.
    """
    with_credit = credit.any()
    order = np.lexsort((credit - score if with_credit else -score, row))
    first = np.searchsorted(row[order], np.arange(rows))
    rank = np.empty(len(row), dtype=np.int64)
    rank[order] = np.arange(len(row)) - first[row[order]]
    score[(rank >= k) & (credit == 0)] = -np.inf
    if with_credit:
        order = np.lexsort((-score, rank >= k, row))
    kept = order[first[:, None] + np.arange(width)]
    return np.take_along_axis(kept, np.argsort(-score[kept], axis=1, kind="stable"), axis=1) if with_credit else kept


def _best_alike(score: np.ndarray, row: np.ndarray, alike: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `score` (n,) with -inf for all but the best `count` of each row with one key `alike`; and the best of each's key."""
    order = np.lexsort((-score, alike, row))
    row, alike = row[order], alike[order]
    first = np.flatnonzero(np.concatenate([[True], (row[1:] != row[:-1]) | (alike[1:] != alike[:-1])]))
    counts = np.diff(np.append(first, len(order)))
    rank = np.arange(len(order)) - np.repeat(first, counts)
    score, leader = score.copy(), np.empty(len(order), dtype=np.int64)
    score[order[rank >= count]] = -np.inf
    leader[order] = np.repeat(order[first], counts)
    return score, leader


def _lost(before: np.ndarray, after: np.ndarray, row: np.ndarray, rows: int, width: float) -> np.ndarray:
    """Return what recombination dropped within `width` of the best of its row, row by row, the best first.

    before, after: scores (n,) without and with recombination.
    """
    top = np.full(rows, -np.inf)
    np.maximum.at(top, row, before)
    lost = np.flatnonzero((after == -np.inf) & (before > -np.inf) & (before > top[row] - width))
    return lost[np.lexsort((-before[lost], row[lost]))]


def _put(state: BeamState, rows: np.ndarray, part: BeamState) -> BeamState:
    """Replace the `rows` of `state` by those of `part`."""
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
