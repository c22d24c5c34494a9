"""`PrefixBeam` compiled: the same texts, scores and times, bit for bit, in a tenth of the time (`...compiled.kernel`).

A state holds one `Row` for each row.  Rows are values: a step makes new ones, and old ones stay valid.  Rows of a step run in
threads, as kernels release Python's lock.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from samba_asr.decoding.base import ALL, Hypothesis, checked_lengths, frames_of
from samba_asr.decoding.compiled import ending, kernel, layout, paths
from samba_asr.decoding.compiled.jit import call_first
from samba_asr.decoding.compiled.tables import (
    Tables,
    fixed,
    flat_tree,
    hot_tables,
    no_grams,
    no_tree,
    of_guide,
    session_words,
)
from samba_asr.decoding.guide import Guide, Guides
from samba_asr.decoding.hotwords import HotwordGuide, Hotwords
from samba_asr.decoding.lattice import Alignments, Ending, Join, Lattice, Readings, assemble
from samba_asr.decoding.ngram import BEGIN, END, UNKNOWN
from samba_asr.decoding.prefix_beam import checked_options, most_alike
from samba_asr.decoding.words import WordGuide
from samba_asr.threads import each

if TYPE_CHECKING:
    import torch

    from samba_asr.config import SearchConfig

LAST, NODE, PRIVATE, WORDS = layout.LAST, layout.NODE, layout.PRIVATE, layout.WORDS


class Session(NamedTuple):
    """Tables of a session: words that only it knows, and its hotwords."""

    more: tuple[np.ndarray, ...]
    hot: tuple[np.ndarray, ...]
    texts: tuple[str, ...]  # of its words
    likeliest: np.ndarray  # by node of its tree
    same: np.ndarray  # (words,) int32: its words by the model's ids, or numbers after those
    places: int  # for beams
    start: int  # node of the automaton
    begins: np.ndarray  # (v,) bool: whether a unit begins a word; (0,): as in the tables
    homophones: int  # words that end in one node, at most


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """Prefixes of one row; the head of `samba_asr.decoding.compiled.kernel` explains the arrays."""

    values: np.ndarray
    marks: np.ndarray
    names: np.ndarray
    nodes: np.ndarray
    node_score: np.ndarray
    words: np.ndarray
    word_score: np.ndarray
    joins: np.ndarray
    join_score: np.ndarray
    frames: int  # seen
    session: Session


class CompiledState(NamedTuple):
    rows: np.ndarray  # (b,) object: `Row`s


class CompiledBeam:
    """CTC prefix beam search; arguments and results are those of `samba_asr.decoding.prefix_beam.PrefixBeam`.

    tables: lexicon and n-gram; None: none.  hotwords: whether sessions may have hotwords.
    """

    takes: ClassVar[frozenset[str]] = ALL

    def __init__(
        self,
        tables: Tables | None = None,
        *,
        hotwords: bool = False,
        beam: int = 8,
        candidates: int | None = 10,
        blank_skip: float = 0.99,
        prune: float | None = 7.0,
        recombine: int | None = None,
        lattice: float | None = None,
        threads: int = 0,
    ):
        """threads: at most so many for the rows of a step; 0: as many as there are cores."""
        checked_options(beam, candidates, blank_skip, prune, recombine)
        self.tables, self.hotwords, self.threads = tables, hotwords, threads
        self.beam, self.candidates, self.blank_skip, self.recombine = beam, candidates, blank_skip, recombine
        self.prune = math.inf if prune is None else prune
        self.lattice = lattice if tables is not None else None
        if tables is None:
            self._tree, self._grams = tuple(no_tree()), tuple(no_grams())
            self._known, self._unknown, self._closing, self._start = 0, -1, -1, 0
        else:
            self._tree, self._grams = tuple(tables.tree), tuple(tables.grams)
            self._known, self._unknown, self._closing = len(tables.texts), tables.word(UNKNOWN), tables.word(END)
            begin = tables.word(BEGIN)
            self._start = 1 + begin if begin >= 0 and len(tables.grams.level) > 3 else 0
        self._weights = (0.0, 0.0) if tables is None else (float(tables.weight), float(tables.bonus))
        self._homophones = most_ends(self._tree)
        self._room = max(1024, 8 * beam)  # extensions of a frame; it grows
        self._plain = self._session(None, [])
        self._sessions: weakref.WeakKeyDictionary[Hotwords, Session] = weakref.WeakKeyDictionary()

    @classmethod
    def from_config(
        cls, config: SearchConfig, guide: Guide | None = None, *, counts_words: bool = True
    ) -> CompiledBeam:
        """Make the search with this guide, of words, hotwords or both; see `samba_asr.decoding.backend.beam_search`."""
        parts = guide.guides if isinstance(guide, Guides) else () if guide is None else (guide,)
        words = next((part for part in parts if isinstance(part, WordGuide)), None)
        hotwords = any(isinstance(part, HotwordGuide) for part in parts)
        return cls.of_tables(config, None if words is None else of_guide(words), hotwords, counts_words=counts_words)

    @classmethod
    def of_tables(
        cls, config: SearchConfig, tables: Tables | None, hotwords: bool, *, counts_words: bool = True
    ) -> CompiledBeam:
        """Make the search with these tables.  hotwords: whether sessions may have hotwords."""
        return cls(
            tables,
            hotwords=hotwords,
            beam=config.beam,
            prune=config.prune,
            recombine=most_alike(config, counts_words),
            lattice=config.lattice or None,
            threads=config.threads,
        )

    def warm(self) -> None:
        """Compile the kernels, or load them from the cache, which the first call would do otherwise."""
        v = 3 if self.tables is None else len(self.tables.begins)
        frames = np.full((1, 1, v), -math.log(v))
        state = self.step(frames, np.ones(1), self.init_state(1))
        self.finish(state)
        self.shared_words([state])
        self.best_path(frames[0], np.zeros(1, np.int64), np.zeros(1, dtype=bool))

    def init_state(self, batch: int, hotwords: Hotwords | None = None) -> CompiledState:
        if hotwords is not None and self.tables is None and not self.hotwords:
            raise ValueError("hotwords need a search with a HotwordGuide")
        session = self._plain
        if hotwords is not None:
            session = self._sessions.get(hotwords) or self._session(hotwords, hotwords.begins)
            self._sessions[hotwords] = session
        w = session.places
        values, marks = np.full((9, w), -math.inf), np.zeros((8, w), np.int32)
        names = np.zeros((3, w), np.uint64)
        values[layout.BASE :] = 0.0
        values[[layout.PB, layout.VB, layout.P], 0] = 0.0
        marks[[LAST, WORDS, layout.PATH_B, layout.PATH_N]] = -1
        marks[layout.CONTEXT, 0], marks[layout.HOT, 0] = self._start, session.start
        values[layout.BONUS, 0], values[layout.CREDIT, 0] = session.hot[4][session.start], session.hot[5][session.start]
        names[[layout.NAME, layout.ALIKE], 0] = 1
        nodes, words, joins = (np.empty((n, 0), np.int32) for n in (3, 2, 4))
        none, two = np.empty((1, 0)), np.empty((2, 0))
        row = Row(values, marks, names, nodes, none, words, none, joins, two, 0, session)
        return CompiledState(_objects([row] * batch))

    def step(
        self, log_probs: torch.Tensor | np.ndarray, lengths: torch.Tensor | np.ndarray, state: CompiledState
    ) -> CompiledState:
        counts = checked_lengths(log_probs, lengths, len(state.rows))
        if not counts.any():
            return state
        frames = frames_of(log_probs, int(counts.max()))
        if self.tables is not None and frames.shape[2] != len(self.tables.begins):  # compiled code does not check
            raise ValueError(f"frames of {frames.shape[2]} units for words of {len(self.tables.begins)}")
        begins = self._begins(frames.shape[2])
        rows = state.rows.copy()

        def step(r: int) -> None:
            row: Row = state.rows[r]
            session = row.session
            units = session.begins if len(session.begins) else begins
            scores = (*self._weights, math.log(self.blank_skip), self.prune, self.lattice or 0.0)
            while True:
                options = (
                    self.beam, self.candidates or frames.shape[2], self.recombine or 0, self._known, self._unknown,
                    row.frames, int(self.tables is not None), self._room, session.homophones,
                )  # fmt: skip
                needed, *arrays = kernel.run(
                    self._tree, session.more, self._grams, session.hot, units, frames[r, : counts[r]],
                    row.values, row.marks, row.names, row.nodes, row.node_score, row.words, row.word_score,
                    row.joins, row.join_score, options, scores,
                )  # fmt: skip
                if not needed:
                    break
                self._room = max(self._room, 2 * needed)
            rows[r] = Row(*arrays, frames=row.frames + int(counts[r]), session=session)

        call_first(lambda: each(step, np.flatnonzero(counts).tolist(), self.threads))
        return CompiledState(rows)

    def finish(self, state: CompiledState) -> CompiledState:
        """Score each beam as a whole text by the guide, if there is one, and sort the beams again."""
        if self.tables is None and not self.hotwords:
            return state
        rows = state.rows.copy()

        def finish(r: int) -> None:
            row: Row = state.rows[r]
            session = row.session
            options = (self._known, self._unknown, self._closing, int(self.tables is not None))
            values, marks, names, words = ending.finish(
                self._tree, session.more, self._grams, session.hot, row.values, row.marks, row.names, row.words, options,
                self._weights,
            )  # fmt: skip
            rows[r] = replace(row, values=values, marks=marks, names=names, words=words)

        call_first(lambda: each(finish, list(range(len(rows))), self.threads))
        return CompiledState(rows)

    def hypotheses(self, state: CompiledState, nbest: int = 1, timed: bool = True) -> list[list[Hypothesis]]:
        return [self._of_row(row, nbest, timed) for row in state.rows]

    def lattices(self, state: CompiledState) -> list[Lattice | None]:
        """See `samba_asr.decoding.prefix_beam.PrefixBeam.lattices`."""
        return [None if self.lattice is None else self._lattice(row) for row in state.rows]

    def _lattice(self, row: Row) -> Lattice:
        units = row.session.begins if len(row.session.begins) else self._begins(0)
        before, token, time = row.nodes
        words = [self._text(row, word) for word in row.words[1].tolist()]
        scores = [*row.word_score[0].tolist(), *[0.0] * (len(words) - row.word_score.shape[1])]  # of last words: none
        alignments = Alignments(
            before.tolist(), token.tolist(), time.tolist(), row.node_score[0].tolist(), units[token].tolist()
        )
        used = int(np.count_nonzero(row.values[layout.P] > -math.inf))
        better = row.values[layout.VB] >= row.values[layout.VN]
        paths = np.where(better, row.marks[layout.PATH_B], row.marks[layout.PATH_N]).tolist()
        viterbi = np.maximum(row.values[layout.VB], row.values[layout.VN]).tolist()
        bonus, entries = row.values[layout.BONUS].tolist(), row.marks[WORDS].tolist()
        endings = [Ending(entries[j], paths[j], viterbi[j], bonus[j]) for j in range(used)]
        reading, into, word, at = row.joins.tolist()
        acoustic, lm = row.join_score.tolist()
        said = [self._text(row, one) for one in word]
        joins = map(Join, reading, at, said, into, acoustic, lm)
        return assemble(alignments, Readings(row.words[0].tolist(), words, scores), endings, joins, row.frames)

    def shared_words(self, states: Sequence[CompiledState]) -> list[str] | None:
        """Return the words with which all texts of the states' first rows begin, but for the last of each.

        None if the words are not read from a lexicon.
        """
        if self.tables is None or self.tables.spell:
            return None
        rows: list[Row] = [state.rows[0] for state in states]
        best = rows[0]
        first = paths.text_of(int(best.marks[WORDS, 0]), best.words, self._known, best.session.same)
        count = len(first)
        for row in rows:
            used = max(1, int(np.count_nonzero(row.values[layout.P] > -math.inf)))
            entries, nodes = row.marks[WORDS, :used], row.marks[NODE, :used]
            count = paths.shared(entries, nodes, row.words, self._known, row.session.same, first, count)
        return [self._text(best, word) for word in self._codes(best, count)]

    def _codes(self, row: Row, count: int) -> list[int]:
        """Return the first `count` words of a row's best text."""
        found, at = [], int(row.marks[WORDS, 0])
        while at >= 0:
            found.append(int(row.words[1, at]))
            at = int(row.words[0, at])
        return found[::-1][:count]

    @staticmethod
    def best_path(log_probs: np.ndarray, labels: np.ndarray, skips: np.ndarray) -> np.ndarray:
        """See `samba_asr.decoding.align.best_path`."""
        frames = np.ascontiguousarray(log_probs, np.float64)
        return call_first(lambda: paths.viterbi(frames, labels.astype(np.int64), skips))

    def _of_row(self, row: Row, nbest: int, timed: bool) -> list[Hypothesis]:
        used = int(np.count_nonzero(row.values[layout.P] > -math.inf))
        count = max(1, min(nbest, used))
        scores = (row.values[layout.P, :count] + row.values[layout.BONUS, :count]).tolist()
        better = row.values[layout.VB, :count] >= row.values[layout.VN, :count]
        ends = np.where(better, row.marks[layout.PATH_B, :count], row.marks[layout.PATH_N, :count]).tolist()
        read = self.tables is not None and not self.tables.spell
        nodes = [] if read and not timed else row.nodes.tolist()
        entries, found = row.words.tolist(), []
        for j in range(count):
            words = self._words(row, j, entries) if read else None
            tokens, times, at = [], [], ends[j] if nodes else -1
            while at >= 0:
                tokens.append(nodes[1][at])
                times.append(nodes[2][at])
                at = nodes[0][at]
            found.append(Hypothesis(tuple(reversed(tokens)), scores[j], tuple(reversed(times)), words))
        return found

    def _words(self, row: Row, j: int, entries: list[list[int]]) -> tuple[str, ...]:
        assert self.tables is not None
        found, at = [], int(row.marks[WORDS, j])
        node, private = int(row.marks[NODE, j]), int(row.marks[PRIVATE, j])
        if node:  # the incomplete word, as the likeliest one
            likeliest = row.session.likeliest if private else self.tables.likeliest
            found.append(self._text(row, int(likeliest[node]) + self._known * private))
        while at >= 0:
            found.append(self._text(row, entries[1][at]))
            at = entries[0][at]
        return tuple(reversed(found))

    def _text(self, row: Row, word: int) -> str:
        assert self.tables is not None
        return self.tables.texts.text(word) if word < self._known else row.session.texts[word - self._known]

    def _session(self, hotwords: Hotwords | None, begins: Sequence[bool]) -> Session:
        """Make the tables of sessions with these hotwords."""
        hot = hotwords if hotwords is not None and hotwords.words and self.hotwords else None
        more = session_words(self.tables, hotwords) if hotwords is not None and self.tables else None
        units = fixed(begins, bool)
        places = self.beam + (-(-self.beam // 4) if hot else 0)
        tables = tuple(hot_tables(hot))
        start = hot.start if hot else 0
        if more is None or self.tables is None:
            nothing = fixed([], np.int32)
            return Session(tuple(no_tree()), tables, (), nothing, nothing, places, start, units, self._homophones)
        texts = tuple(more.texts.values())
        known = [self.tables.word(text) for text in texts]
        same = fixed([i if i >= 0 else self._known + n for n, i in enumerate(known)], np.int32)
        space = None if self.tables.space < 0 else self.tables.space
        tree = tuple(flat_tree(more, len(self.tables.begins), space))
        likeliest = fixed(more.likeliest, np.int32)
        homophones = max(self._homophones, most_ends(tree))
        return Session(tree, tables, texts, likeliest, same, places, start, units, homophones)

    def _begins(self, v: int) -> np.ndarray:
        """Return, for each unit, whether it begins a word."""
        return fixed(np.zeros(v), bool) if self.tables is None else self.tables.begins


def most_ends(tree: Sequence[np.ndarray]) -> int:
    """Return how many words end in one node of a tree, at most, and 1 at least."""
    return max(1, int(np.diff(tree[4]).max(initial=1)))


def _objects(rows: list[Row]) -> np.ndarray:
    found = np.empty(len(rows), dtype=object)
    found[:] = rows
    return found
