"""Word lattices: the words that a beam search considered, as a graph, with the scores of each.

A node is the beginning of a word, an arc a word.  Every path from the first node to the last is a text with its alignment, and
the sum of its arcs is its score.  Beams that are left at the end give few paths, because of all prefixes that nothing later can
tell apart the search keeps the best (`GuidedPrefix.recombination`).  What it drops there is where paths meet, as in decoders by
WFST (A. Ljolje, F. Pereira, M. Riley, "Efficient general lattice generation and rescoring", 1999; D. Povey et al., "Generating
exact lattices in the WFST framework", 2012).  So the searches keep a record of each, a `Join`, and `assemble` makes the graph.

Both scores of a word are differences along one alignment, so they add up exactly: of the Viterbi score before its first token and
before the next word's, and of the guides' score (without look-ahead) there.

    n  nodes     a  arcs, in the order of their nodes     t  frames
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

WIDTH = 8.0
"""Nats.  A dropped prefix that is this much worse than the frame's best is forgotten."""
ROOT = -1  # the reading of no word


class Lattice(NamedTuple):
    """Graph of words.  Node 0 is the start, node n - 1 the end; along every arc the number and the time of nodes rise."""

    times: np.ndarray  # (n,) int64: frame where the word after the node begins
    start: np.ndarray  # (a,) int64: node
    end: np.ndarray  # (a,) int64: node
    word: np.ndarray  # (a,) int64: index into `words`
    acoustic: np.ndarray  # (a,) float64: nats, of the best alignment
    lm: np.ndarray  # (a,) float64: nats, of language model, bonus and hotwords
    words: tuple[str, ...]  # "" where a text ends without a word
    units: tuple[tuple[int, ...], ...] = ()  # (a,) tokens of each arc in that alignment; () once times are seconds
    begun: tuple[tuple[int, ...], ...] = ()  # (a,) frames where these begin

    @property
    def texts(self) -> list[str]:
        """The word of each arc."""
        return [self.words[i] for i in self.word.tolist()]

    @property
    def first(self) -> np.ndarray:
        """(a,) frame where the word of each arc begins"""
        return self.times[self.start]

    @property
    def last(self) -> np.ndarray:
        """(a,) frame before which the word of each arc ends"""
        return self.times[self.end]


def in_seconds(lattice: Lattice, seconds: Callable[[int], float]) -> Lattice:
    """Return the lattice with its times in seconds, (n,) float64.  seconds: of the beginning of a frame."""
    times = [round(seconds(time), 3) for time in lattice.times.tolist()]
    return lattice._replace(times=np.array(times, dtype=np.float64), units=(), begun=())


class Alignments(NamedTuple):
    """Linked tokens; `before` is the token before, or -1."""

    before: Sequence[int]
    unit: Sequence[int]  # id in the tokenizer
    time: Sequence[int]  # frame
    score: Sequence[float]  # Viterbi score before the token
    begins: Sequence[bool]  # whether the token begins a word


class Readings(NamedTuple):
    """Linked words; a reading stands for the word that begins after it.  `before` is the reading before, or ROOT."""

    before: Sequence[int]
    word: Sequence[str]
    score: Sequence[float]  # of the guides, when the next word began


class Ending(NamedTuple):
    """A whole text that is left at the end."""

    reading: int  # with its last word, if that is complete
    token: int  # last of the alignment, or -1
    acoustic: float
    score: float  # of the guides


class Join(NamedTuple):
    """A dropped prefix: `word` after `reading` ends where the word after `into` begins."""

    reading: int
    token: int  # last of the alignment of `reading`'s next word
    word: str
    into: int  # reading
    acoustic: float
    lm: float


class Score(NamedTuple):
    """Best alignment of an arc."""

    acoustic: float
    lm: float
    token: int  # last of the word's


def assemble(
    tokens: Alignments, readings: Readings, endings: Iterable[Ending], joins: Iterable[Join], frames: int
) -> Lattice:
    """Make the lattice of a search.  frames: its length.

    Of several alignments of one arc the best counts.  The time of a node is the earliest of all alignments, so the arcs of each
    of them go forward in time.  Joins that go back (one of a thousand) are left out, and what lies on no way from start to end.
    """
    end = len(readings.before)
    arcs: dict[tuple[int, int, str], Score] = {}
    when: dict[int, int] = {ROOT: -1}
    settled: set[tuple[int, int]] = set()
    first: dict[int, int] = {}  # first token of the word of a token

    def beginning(token: int) -> int:
        at = token
        while at not in first and not tokens.begins[at] and tokens.before[at] >= 0:
            at = tokens.before[at]
        first[token] = found = first.get(at, at)
        return found

    def score(reading: int) -> float:
        return 0.0 if reading == ROOT else readings.score[reading]

    def place(reading: int, token: int) -> float:
        """Return the Viterbi score where the word after `reading` begins.  token: last of it in an alignment."""
        return 0.0 if reading == ROOT else tokens.score[beginning(token)]

    def add(low: int, high: int, word: str, acoustic: float, lm: float, token: int) -> None:
        known = arcs.get((low, high, word))
        if known is None or acoustic > known.acoustic:
            arcs[low, high, word] = Score(acoustic, lm, token)

    def spelled(token: int) -> list[int]:
        """Return the tokens of a word up to `token`, its last."""
        found = [token] if token >= 0 else []
        while found and found[-1] != beginning(token):
            found.append(tokens.before[found[-1]])
        return found[::-1]

    def settle(reading: int, token: int) -> None:
        """Add the arcs of an alignment, before the word after `reading`."""
        while reading != ROOT and (reading, at := beginning(token)) not in settled:
            settled.add((reading, at))
            when[reading] = min(when.get(reading, frames), tokens.time[at])
            low, token = readings.before[reading], tokens.before[at]
            acoustic = tokens.score[at] - place(low, token)
            add(low, reading, readings.word[reading], acoustic, readings.score[reading] - score(low), token)
            reading = low

    def count(at: int, before: Sequence[int], step: Callable[[int], int] = lambda i: i) -> int:
        n = 0
        while at >= 0:
            n, at = n + 1, before[step(at)]
        return n

    for ending in endings:
        reading, word = ending.reading, ""
        if ending.token >= 0 and count(reading, readings.before) == count(ending.token, tokens.before, beginning):
            reading, word = readings.before[reading], readings.word[reading]  # the last word is complete
        settle(reading, ending.token)
        acoustic = ending.acoustic - place(reading, ending.token)
        add(reading, end, word, acoustic, ending.score - score(reading), ending.token)
    best: dict[tuple[int, str, int], Join] = {}
    for join in joins:
        key = join.reading, join.word, join.into
        if key not in best or join.acoustic > best[key].acoustic:
            best[key] = join
    for join in best.values():
        settle(join.reading, join.token)
        add(join.reading, join.into, join.word, join.acoustic, join.lm, join.token)
    when[end] = frames
    lattice, last = _numbered(arcs, when, end)
    words = [spelled(token) for token in last]
    return lattice._replace(
        units=tuple(tuple(tokens.unit[i] for i in word) for word in words),
        begun=tuple(tuple(tokens.time[i] for i in word) for word in words),
    )


def _numbered(arcs: dict[tuple[int, int, str], Score], when: dict[int, int], end: int) -> tuple[Lattice, list[int]]:
    """Number the nodes by time, and keep the arcs that go forward on a way from ROOT to `end`; with the last token of each."""
    ordered = sorted(when, key=lambda node: (when[node], node == end))
    forward = [arc for arc in arcs if arc[0] in when and arc[1] in when and when[arc[0]] < when[arc[1]]]
    number = {node: n for n, node in enumerate(ordered)}
    forward.sort(key=lambda arc: (number[arc[0]], number[arc[1]]))
    there = {ROOT}
    for low, high, _ in forward:
        if low in there:
            there.add(high)
    back = {end}
    for low, high, _ in reversed(forward):
        if high in back:
            back.add(low)
    kept = [arc for arc in forward if arc[0] in there and arc[1] in back]
    nodes = [node for node in ordered if node in there and node in back]
    number = {node: n for n, node in enumerate(nodes)}
    words = {word: n for n, word in enumerate(dict.fromkeys(word for _, _, word in kept))}
    scores = [arcs[arc] for arc in kept]
    lattice = Lattice(
        times=np.array([max(when[node], 0) for node in nodes], dtype=np.int64),
        start=np.array([number[low] for low, _, _ in kept], dtype=np.int64),
        end=np.array([number[high] for _, high, _ in kept], dtype=np.int64),
        word=np.array([words[word] for _, _, word in kept], dtype=np.int64),
        acoustic=np.array([score.acoustic for score in scores], dtype=np.float64),
        lm=np.array([score.lm for score in scores], dtype=np.float64),
        words=tuple(words),
    )
    return lattice, [score.token for score in scores]
