"""A Mamba language model over a word lattice: the second pass that may choose any path, where an n-best list has few.

Paths grow from node to node, in waves: a node's turn comes when all nodes before it have had theirs.  At each node the best
`PATHS` texts go on, and in each wave those within `BEAM` nats of the wave's best, counted with the best rest of the lattice.
That is the pruned composition of H. Xu et al., "A pruned RNNLM lattice-rescoring algorithm for automatic speech recognition",
2018, with whole texts in place of merged histories, as a state of Mamba holds all of a text.  A path's score is

    acoustic + lm + weight (ln p_neural - ln p_ngram)

where lm is what the search counted: the n-gram by its own weight, word bonus and hotwords.  So the neural model takes a share
of the n-gram's weight: both are mixed log-linearly.  (Mixed linearly they have the lower perplexity, and gain a third less here.)

A lattice's acoustic score is that of one alignment, and the search's sums all of them.  So the best texts at the end get the
sum over all alignments of their tokens, by CTC's forward algorithm.

    a  arcs     t  frames     v  ids, 0 is the CTC blank
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from samba_asr.decoding.base import Hypothesis
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.lattice import Lattice
from samba_asr.decoding.slots import Slots
from samba_asr.decoding.text_sums import text_log_probs
from samba_asr.text.units import BOUNDARY, Tokenizer

PATHS = 3  # texts that go on at a node
BEAM = 7.0  # nats
ENDS = 16  # whole texts whose alignments are summed


def share_of(weight: float, neural_weight: float) -> float:
    """Return the share of the n-gram's weight that the neural model takes; nothing of nothing."""
    return neural_weight / weight if weight else 0.0


class Path(NamedTuple):
    """A whole text in the lattice, with the parts of its score."""

    hypothesis: Hypothesis  # its score: the sum of all alignments
    lm: float  # of the search's language model, with bonus and hotwords
    besides: float  # of lm, what is no language model: bonus and hotwords
    neural: float  # ln p of the text by the neural model, not weighted

    def scored(self, weight: float, neural_weight: float) -> Hypothesis:
        """Return the hypothesis with its whole score.  weight: the n-gram's in the search.  neural_weight: 0 .. weight."""
        share = share_of(weight, neural_weight)
        lm = (1 - share) * self.lm + share * self.besides + neural_weight * self.neural
        return replace(self.hypothesis, score=self.hypothesis.score + lm)


@dataclass(eq=False)
class _Text:
    """The beginning of a text.  Its last unit is read when the text goes on, or ends: most never do."""

    word: str  # the last; "" of the empty text
    log_p: float  # of its units
    before: int  # slot of the state before the last unit
    unit: int  # the last
    parent: _Text | None = None
    longer: dict[str, _Text] = field(default_factory=dict)  # by the next word
    slot: int = -1  # of the state after the last unit, once it is read
    after: np.ndarray | None = None  # (v,) ln p of each next unit, once the last is read

    @property
    def words(self) -> tuple[str, ...]:
        found, at = [], self
        while at.parent:
            found.append(at.word)
            at = at.parent
        return tuple(reversed(found))

    def next(self, unit: int) -> float:
        """Return ln p of a next unit, once the last is read."""
        assert self.after is not None
        return float(self.after[unit])


class _Partial(NamedTuple):
    """A text in the lattice up to a node, by its best way.  That is linked, as copies would be as long as the text."""

    score: float
    lm: float
    text: _Text
    last: tuple[int, Any] | None  # the last arc, and `last` before it

    @property
    def arcs(self) -> list[int]:
        found, at = [], self.last
        while at:
            arc, at = at
            found.append(arc)
        return found[::-1]


class LatticeLm:
    """The pass, for a recognizer whose search keeps lattices.  Threads may share it."""

    reads_lattices = True

    def __init__(
        self,
        tokenizer: Tokenizer,
        new_states: Callable[[], Slots],
        *,
        weight: float,
        bonus: float,
        neural_weight: float,
    ):
        """tokenizer, new_states: of the language model; a thread at a time has a pool of states.

        weight, bonus: of the search's language model, and nats a word.  neural_weight: 0 .. weight (any, if that is 0).
        """
        self.tokenizer, self.new_states = tokenizer, new_states
        self.weight, self.bonus, self.neural_weight = weight, bonus, neural_weight
        self._units: dict[str, tuple[int, ...]] = {}
        self._idle: list[Slots] = []

    def weighted(self, weight: float, bonus: float, neural_weight: float) -> LatticeLm:
        """Return the pass with other weights."""
        return LatticeLm(self.tokenizer, self.new_states, weight=weight, bonus=bonus, neural_weight=neural_weight)

    def __call__(
        self, lattice: Lattice, log_probs: np.ndarray, hotwords: Hotwords | None, found: Sequence[Hypothesis]
    ) -> tuple[list[Hypothesis], Lattice]:
        """Return the texts of `lattice`, best first, and the lattice with the scores of arcs as the best path read them.

        log_probs (t, v): that the lattice is made of.  found: hypotheses of the search, returned where the lattice has no path
        of whole words; if they have no words, their tokens spell the texts.
        """
        ends, read = self._expanded(lattice)
        paths = self._summed(ends, lattice, log_probs, hotwords)
        texts = sorted((path.scored(self.weight, self.neural_weight) for path in paths), key=lambda h: -h.score)
        if found and found[0].words is None:
            texts = [replace(text, words=None) for text in texts]
        return texts or list(found), read

    def paths(self, lattice: Lattice, log_probs: np.ndarray, hotwords: Hotwords | None = None) -> list[Path]:
        """Return at most `ENDS` texts, distinct in words, in no order."""
        return self._summed(self._expanded(lattice)[0], lattice, log_probs, hotwords)

    def _summed(
        self, ends: list[_Partial], lattice: Lattice, log_probs: np.ndarray, hotwords: Hotwords | None
    ) -> list[Path]:
        distinct: dict[tuple[str, ...], _Partial] = {}
        for end in sorted(ends, key=lambda path: -path.score):
            distinct.setdefault(end.text.words, end)
        chosen = [(end, words, end.arcs) for words, end in list(distinct.items())[:ENDS]]
        tokens = [[unit for arc in arcs for unit in lattice.units[arc]] for _, _, arcs in chosen]
        totals = text_log_probs(log_probs, tokens)
        if totals is None:
            totals = [float(lattice.acoustic[arcs].sum()) for _, _, arcs in chosen]
        found = []
        for (end, words, arcs), own, total in zip(chosen, tokens, totals, strict=True):
            # Arcs of different alignments may overlap by a frame or two.
            times = tuple(accumulate((time for arc in arcs for time in lattice.begun[arc]), max))
            besides = self.bonus * len(words) + (hotwords.text_score(own, words) if hotwords else 0.0)
            found.append(Path(Hypothesis(tuple(own), total, times, words), end.lm, besides, end.text.log_p))
        return [path for path in found if path.hypothesis.score > -math.inf]

    def _expanded(self, lattice: Lattice) -> tuple[list[_Partial], Lattice]:
        """Return the best paths that reach the end, the log_p of their texts with that of the end; and the lattice as read."""
        start, end, words = lattice.start.tolist(), lattice.end.tolist(), lattice.texts
        acoustic, lm = lattice.acoustic.tolist(), lattice.lm.tolist()
        last = len(lattice.times) - 1
        # What ends within a word is no text.
        whole = [arc for arc in range(len(start)) if words[arc] or not lattice.units[arc]]
        leaving, rest = defaultdict(list), [-math.inf] * (last + 1)
        rest[last] = 0.0
        for arc in reversed(whole):  # they are sorted by their nodes
            leaving[start[arc]].append(arc)
            rest[start[arc]] = max(rest[start[arc]], acoustic[arc] + lm[arc] + rest[end[arc]])
        share = share_of(self.weight, self.neural_weight)
        # By arcs: the score of the best path with it, and what it adds to that but acoustics.
        read: dict[int, tuple[float, float]] = {}

        def longer(path: _Partial, arc: int) -> _Partial:
            text, besides = path.text, 0.0
            if words[arc]:
                text, besides = path.text.longer[words[arc]], self.bonus
            gain = (1 - share) * lm[arc] + share * besides + self.neural_weight * (text.log_p - path.text.log_p)
            new = _Partial(path.score + acoustic[arc] + gain, path.lm + lm[arc], text, (arc, path.last))
            if arc not in read or new.score > read[arc][0]:
                read[arc] = new.score, gain
            return new

        with self._texts() as texts:
            at: dict[int, dict[_Text, _Partial]] = defaultdict(dict)  # by node, by text
            at[0][texts.empty] = _Partial(0.0, 0.0, texts.empty, None)
            for wave in _waves(last + 1, [(start[arc], end[arc]) for arc in whole]):
                live = []
                for node in wave:
                    best = sorted(at.pop(node, {}).values(), key=lambda path: -path.score)[:PATHS]
                    live += [(path.score + rest[node], node, path) for path in best]
                bound = max((total for total, _, _ in live), default=0.0) - BEAM
                steps = [
                    (path, arc) for total, node, path in live if total > bound for arc in leaving[node]
                    if path.score + acoustic[arc] + lm[arc] + rest[end[arc]] > bound
                ]  # fmt: skip
                texts.read((path.text, words[arc]) for path, arc in steps if words[arc])
                for path, arc in steps:
                    new = longer(path, arc)
                    known = at[end[arc]].get(new.text)
                    if known is None or new.score > known.score:
                        at[end[arc]][new.text] = new
                texts.forget(path.text for some in at.values() for path in some.values())
            ends = sorted(at[last].values(), key=lambda path: -path.score)[: 2 * ENDS]
            texts.read((path.text, "") for path in ends)
            found = []
            for path in ends:
                log_p = path.text.next(BOUNDARY)
                text = replace(path.text, log_p=path.text.log_p + log_p)
                found.append(path._replace(score=path.score + self.neural_weight * log_p, text=text))
        if read:
            scores = lattice.lm.copy()
            scores[list(read)] = [gain for _, gain in read.values()]
            lattice = lattice._replace(lm=scores)
        return found, lattice

    @contextmanager
    def _texts(self) -> Iterator[_Texts]:
        """Lend a tree of texts, with states that no other thread uses."""
        try:
            states = self._idle.pop()
        except IndexError:
            states = self.new_states()
        try:
            yield _Texts(states, self.tokenizer, self._units)
        finally:
            states.keep(())
            self._idle.append(states)


class _Texts:
    """The beginnings of texts that a pass has read, and their states."""

    def __init__(self, states: Slots, tokenizer: Tokenizer, units: dict[str, tuple[int, ...]]):
        """units: of words, the first of a text after a space; more are added."""
        self.states, self.tokenizer, self.units = states, tokenizer, units
        slot, after = states.start()
        self.empty = _Text("", 0.0, slot, BOUNDARY, slot=slot, after=after)
        self.kept: list[_Text] = []  # all but the empty one

    def read(self, wanted: Iterable[tuple[_Text, str]]) -> None:
        """Read the last unit of texts, and the words that follow them ("": none) up to their last units: in one call."""
        wanted = list(dict.fromkeys(wanted))
        due = list(dict.fromkeys(text for text, _ in wanted if text.slot < 0))
        new = [(text, word, self._spelled(text, word)) for text, word in wanted if word and word not in text.longer]
        # Nodes of the tree of units, by text and units: words after a text share the units with which they begin.
        deepest = max((len(units) for _, _, units in new), default=0)
        nodes = list(dict.fromkeys(
            (text, units[:n]) for n in range(1, deepest) for text, _, units in new if len(units) > n
        ))  # fmt: skip
        slots = self.states.take(len(due) + len(nodes))
        for text, slot in zip(due, slots, strict=False):
            text.slot = slot
        tree = dict(zip(nodes, slots[len(due) :], strict=True)) | {(text, ()): text.slot for text, _, _ in new}
        if slots:
            sources = [text.before for text in due] + [tree[text, units[:-1]] for text, units in nodes]
            after = self.states.extend(sources, slots, [text.unit for text in due] + [units[-1] for _, units in nodes])
            for text, row in zip(due, after, strict=False):
                text.after = row
        log_p = {node: after[len(due) + n] for n, node in enumerate(nodes)}
        for text, word, units in new:
            rest = sum(float(log_p[text, units[:n]][unit]) for n, unit in enumerate(units) if n)
            total = text.log_p + text.next(units[0]) + rest
            text.longer[word] = _Text(word, total, tree[text, units[:-1]], units[-1], text)
            self.kept.append(text.longer[word])

    def forget(self, wanted: Iterable[_Text]) -> None:
        """Forget the texts that cannot be asked for again.  wanted: those of paths that go on."""
        again, kept, self.kept = set(wanted), self.kept, []
        for text in kept:
            if text in again or text.parent in again:
                self.kept.append(text)
            elif text.parent:
                text.parent.longer.pop(text.word, None)
        needed = [self.empty, *self.kept]
        self.states.keep({text.slot for text in needed} | {text.before for text in needed})

    def _spelled(self, text: _Text, word: str) -> tuple[int, ...]:
        """Return the units of a word that follows a text: between words there may be one more."""
        key = word if text.parent else f" {word}"
        if key not in self.units:
            alone = self.tokenizer.encode(word)
            self.units[key] = tuple(self.tokenizer.encode(f"{word} {word}")[len(alone) :] if text.parent else alone)
        return self.units[key]


def _waves(nodes: int, arcs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the nodes but the last by the most arcs on a way to them from the first.  Arcs are in the order of their nodes."""
    depth = [0] * nodes
    for low, high in arcs:
        depth[high] = max(depth[high], depth[low] + 1)
    waves = defaultdict(list)
    for node in range(nodes - 1):
        waves[depth[node]].append(node)
    return [waves[n] for n in sorted(waves)]
