"""Records of the numpy search for a word lattice: linked words, and the prefixes that recombination drops.

`samba_asr.decoding.lattice` explains what they are for.  All of it is linked and never changed, so old states stay valid, and
what a dropped beam alone held is freed with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from samba_asr.decoding.lattice import ROOT, Alignments, Ending, Join, Lattice, Readings, assemble
from samba_asr.decoding.words import WordPrefix


class Node(NamedTuple):
    """Last token of an alignment, linked to the one before it.  Nodes of a dropped beam are freed with it."""

    before: Node | None
    token: int
    time: int
    score: float  # Viterbi score before the token


class Reading(NamedTuple):
    """Last complete word of a prefix, linked to the one before it."""

    before: Reading | None
    word: str
    score: float  # of the guides when the next word began, without look-ahead


class Dropped(NamedTuple):
    """A `samba_asr.decoding.lattice.Join` of linked words and tokens."""

    reading: Reading | None
    path: Node | None
    word: str
    into: Reading
    acoustic: float
    lm: float


class Joins(NamedTuple):
    """Prefixes that were dropped in a frame, linked to those of earlier frames."""

    before: Joins | None
    dropped: tuple[Dropped, ...]


class Place(NamedTuple):
    """Where a prefix is in a frame: after `reading`, along `path`, whose Viterbi score is `acoustic`; `lm`: its bonus."""

    reading: Reading | None
    path: Node | None
    acoustic: float
    lm: float


def nodes_of(before: np.ndarray, token: np.ndarray, time: np.ndarray, score: np.ndarray) -> np.ndarray:
    """(n,) each -> Nodes, (n,) object."""
    fields = (x.tolist() for x in (before, token, time, score))
    return np.fromiter(map(Node, *fields), dtype=object, count=len(before))


def reading_after(reading: Reading | None, old: Any, new: Any, bonus: float) -> Reading | None:
    """Return the reading of an extension.  old, new: views before and after it.  bonus: of all guides, after it."""
    if not isinstance(new, WordPrefix) or new.history is None or new.history is old.history:
        return reading
    return Reading(reading, new.history[1], bonus - float(new.among.ahead[new.node]))


def beginning(path: Node, begins: np.ndarray) -> Node:
    """Return the first token of the last word of an alignment."""
    while path.before is not None and not begins[path.token]:
        path = path.before
    return path


def join(lost: Place, kept: Place, begins: np.ndarray) -> Dropped | None:
    """Join a dropped prefix to the one that is kept in its place; None if either is in the first word of its text."""
    if lost.reading is None or kept.reading is None:
        return None
    assert lost.path is not None
    assert kept.path is not None
    reading, path = lost.reading.before, beginning(lost.path, begins).before
    acoustic = lost.acoustic - kept.acoustic + beginning(kept.path, begins).score
    lm = lost.lm - kept.lm + kept.reading.score
    if reading is not None:
        assert path is not None
        acoustic, lm = acoustic - beginning(path, begins).score, lm - reading.score
    return Dropped(reading, path, lost.reading.word, kept.reading, acoustic, lm)


def lattice(ends: Iterable[Place], joins: Joins | None, begins: np.ndarray, frames: int) -> Lattice:
    """Make the lattice of a row.  ends: the final beams, finished, best first.  begins (v,): whether a unit begins a word."""
    frames_of_joins: list[Sequence[Dropped]] = []
    while joins is not None:
        frames_of_joins.append(joins.dropped)
        joins = joins.before
    dropped = [one for some in reversed(frames_of_joins) for one in some]
    nodes, readings = Numbers(), Numbers()
    ending = [Ending(readings(end.reading), nodes(end.path), end.acoustic, end.lm) for end in ends]
    found = [
        Join(readings(one.reading), nodes(one.path), one.word, readings(one.into), one.acoustic, one.lm)
        for one in dropped
    ]
    alignments = Alignments(
        before=[nodes(node.before) for node in nodes.all],
        unit=[node.token for node in nodes.all],
        time=[node.time for node in nodes.all],
        score=[node.score for node in nodes.all],
        begins=[bool(begins[node.token]) for node in nodes.all],
    )
    texts = Readings(
        before=[readings(one.before) for one in readings.all],
        word=[one.word for one in readings.all],
        score=[one.score for one in readings.all],
    )
    return assemble(alignments, texts, ending, found, frames)


class Numbers:
    """Numbers for linked objects, from 0, and for all that they are linked to; None has ROOT."""

    def __init__(self):
        self.all: list[Any] = []
        self._number: dict[int, int] = {}

    def __call__(self, linked: Any) -> int:
        new = []
        at = linked
        while at is not None and id(at) not in self._number:
            new.append(at)
            at = at.before
        for one in reversed(new):
            self._number[id(one)] = len(self.all)
            self.all.append(one)
        return ROOT if linked is None else self._number[id(linked)]
