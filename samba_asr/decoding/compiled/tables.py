"""Flat arrays for the compiled search: lexicon tree, n-gram trie, hotword automaton, and the texts of words.

All arrays are read-only, and each has one dtype, so that the kernels are compiled once.

The n-gram trie numbers the n-grams of all orders: 0 is the empty context, then come the n-grams order by order, each order
sorted by its words.  So the n-grams that continue one context lie together.  A context is the number of its n-gram.  The context
after an n-gram of the highest order is its end, which need not be an n-gram: of the shipped model's 3-grams (a, b, c) a fifth
have no 2-gram (b, c).  Such ends get numbers after all n-grams, because the search tells them apart when it recombines.

    e  edges of the tree     n  nodes     g  n-grams     v  ids of the tokenizer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.ngram import UNKNOWN, NgramModel
from samba_asr.decoding.packed import Grams as Ngrams
from samba_asr.decoding.words import SHIFT, UNKNOWN_SCORE, Vocabulary, WordGuide
from samba_asr.decoding.words import Tree as WordTree


class Unsupported(Exception):
    """A language model that has no place in the tables."""


class Tree(NamedTuple):
    """Spellings of words.  Children of a node are sorted by token."""

    first: np.ndarray  # (n + 1,) int32: first edge of each node
    token: np.ndarray  # (e,) int32
    child: np.ndarray  # (e,) int32
    root: np.ndarray  # (v,) int32: child of the root by token, -1: none; (0,) for a tree without words
    ends_first: np.ndarray  # (n + 1,) int32: first word that ends in each node
    ends_word: np.ndarray  # (words,) int32
    ahead: np.ndarray  # (n,) float64: look-ahead score
    start: np.ndarray  # (1,) int32: node after the space, where spaces are units; -1: none


class Grams(NamedTuple):
    """Back-off model as a trie."""

    successors: np.ndarray  # (contexts + 1,) int32: first n-gram that continues each context
    word: np.ndarray  # (g,) int32: last word
    log_prob: np.ndarray  # (g,) float32
    backoff: np.ndarray  # (contexts,) float32
    link: (
        np.ndarray
    )  # (g + virtual,) int32: of the highest order, the context after it; else the longest end that is an n-gram
    level: np.ndarray  # (order + 2,) int64: first n-gram of each order


class Hot(NamedTuple):
    """Automaton of hotwords (`samba_asr.decoding.hotwords`); one node without hotwords."""

    first: np.ndarray  # (n + 1,) int32
    token: np.ndarray  # (e,) int32
    child: np.ndarray  # (e,) int32
    fail: np.ndarray  # (n,) int32
    score: np.ndarray  # (n,) float64
    credit: np.ndarray  # (n,) float64
    before: np.ndarray  # (n,) float64
    complete: np.ndarray  # (n,) float64


class Strings(NamedTuple):
    """Texts of words, by id."""

    blob: np.ndarray  # uint8: UTF-8, one after another
    offsets: np.ndarray  # (words + 1,) int32
    order: np.ndarray  # (words,) int32: ids, sorted by bytes

    def __len__(self) -> int:
        return len(self.order)

    def text(self, i: int) -> str:
        return self._bytes(i).decode()

    def find(self, text: str) -> int:
        """Return the id of a text, or -1."""
        wanted, low, high = text.encode(), 0, len(self.order)
        while low < high:
            middle = (low + high) // 2
            if self._bytes(int(self.order[middle])) < wanted:
                low = middle + 1
            else:
                high = middle
        found = int(self.order[low]) if low < len(self.order) else -1
        return found if found >= 0 and self._bytes(found) == wanted else -1

    def _bytes(self, i: int) -> bytes:
        return self.blob[self.offsets[i] : self.offsets[i + 1]].tobytes()

    @classmethod
    def of(cls, texts: Sequence[str]) -> Strings:
        parts = [text.encode() for text in texts]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
        order = sorted(range(len(parts)), key=parts.__getitem__)
        return cls(fixed(np.frombuffer(b"".join(parts), np.uint8)), fixed(offsets, np.int32), fixed(order, np.int32))


@dataclass(frozen=True)
class Tables:
    """Everything that a search over words shares between its sessions."""

    tree: Tree
    grams: Grams
    texts: Strings  # of the model's words
    spelt: np.ndarray  # (words,) bool: whether the tokenizer writes the word
    likeliest: np.ndarray  # (n,) int32: best word that a node can still become
    begins: np.ndarray  # (v,) bool: whether a unit begins a word
    space: int  # the unit that is a space alone; -1: none
    spell: bool  # whether the tokens spell the words, so that no word need be read from the tree
    weight: float  # of `tree.ahead` and `likeliest`
    bonus: float

    def word(self, text: str) -> int:
        return self.texts.find(text)

    def weighted(self, weight: float, bonus: float) -> Tables:
        """Return tables with other weights: a copy of the look-ahead alone."""
        if (weight, bonus) == (self.weight, self.bonus):
            return self
        alone = self.grams.log_prob[1 : 1 + len(self.texts)].astype(np.float64)
        ahead, likeliest = look_ahead(self.tree, weight * alone + bonus)
        return replace(self, tree=self.tree._replace(ahead=ahead), likeliest=likeliest, weight=weight, bonus=bonus)


def of_guide(guide: WordGuide) -> Tables:
    """Return the tables of a guide, made once for all its weights.

    Unsupported for a language model that is not in memory, or lacks 1-grams of its words.
    """
    if guide.tables is None:
        guide.tables = _tables_of(guide)
    return guide.tables.weighted(guide.weight, guide.bonus)


def _tables_of(guide: WordGuide) -> Tables:
    model = guide.model
    if not isinstance(model, NgramModel):
        raise Unsupported("the language model is not an n-gram in memory")
    if len(model.grams[0].words) != len(model.ids):
        raise Unsupported("the language model has words without a 1-gram")
    vocabulary, words = guide.vocabulary, list(model.ids)
    spelt = np.zeros(len(words), dtype=bool)
    spelt[sorted({word for some in vocabulary.tree.words.values() for word in some})] = True
    return Tables(
        tree=flat_tree(vocabulary, len(guide.begins), guide._space),
        grams=gram_trie(model.grams),
        texts=Strings.of(words),
        spelt=fixed(spelt),
        likeliest=fixed(vocabulary.likeliest, np.int32),
        begins=fixed(guide.begins),
        space=-1 if guide._space is None else guide._space,
        spell=guide._tokens_spell_words,
        weight=guide.weight,
        bonus=guide.bonus,
    )


def flat_tree(vocabulary: Vocabulary, v: int, space: int | None) -> Tree:
    """Flatten a tree; its numbers of nodes stay."""
    tree: WordTree = vocabulary.tree
    n = len(tree.parents)
    keys = np.fromiter(tree.children.keys(), dtype=np.int64, count=len(tree.children))
    children = np.fromiter(tree.children.values(), dtype=np.int64, count=len(tree.children))
    order = np.argsort(keys)
    keys, children = keys[order], children[order]
    parent, token = keys >> SHIFT, keys & ((1 << SHIFT) - 1)
    first = np.searchsorted(parent, np.arange(n + 1))
    root = np.full(v, -1)
    root[token[: first[1]]] = children[: first[1]]
    counts = np.zeros(n + 1, dtype=np.int64)
    for node, words in tree.words.items():
        counts[node + 1] = len(words)
    ends_first = np.cumsum(counts)
    ends_word = np.array([word for node in sorted(tree.words) for word in tree.words[node]], dtype=np.int64)
    start = -1 if space is None else int(root[space])
    return Tree(
        *(fixed(x, np.int32) for x in (first, token, children, root, ends_first, ends_word)),
        ahead=fixed(vocabulary.ahead, np.float64),
        start=fixed([start], np.int32),
    )


def no_tree() -> Tree:
    """Return a tree without words."""
    one = fixed([0, 0], np.int32)
    empty = fixed([], np.int32)
    return Tree(one, empty, empty, empty, one, empty, fixed([0.0], np.float64), fixed([-1], np.int32))


def no_grams() -> Grams:
    empty = fixed([], np.int32)
    return Grams(empty, empty, fixed([], np.float32), fixed([], np.float32), empty, fixed([0, 1], np.int64))


def look_ahead(tree: Tree, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, by node, the best of `scores` (by word) among the words that end in it or below, and that word.

    Of equal ones the one that `samba_asr.decoding.words.Tree.best` finds.
    """
    n = len(tree.first) - 1
    best, word = np.full(n, -np.inf), np.zeros(n, dtype=np.int64)
    place = np.repeat(np.arange(n), np.diff(tree.ends_first))  # (words,) node
    score = scores[tree.ends_word]
    order = np.lexsort((-score, place))  # stable: of equal ones the first
    head = order[np.flatnonzero(np.diff(place[order], prepend=-1))]
    best[place[head]], word[place[head]] = score[head], tree.ends_word[head]
    parents = np.empty(n, dtype=np.int64)
    parents[tree.child] = np.repeat(np.arange(n), np.diff(tree.first))
    levels, level = [], np.zeros(1, dtype=np.int64)
    while len(level):
        levels.append(level)
        level = _edges(tree, level)
    for nodes in reversed(levels[1:]):  # children before parents
        order = np.lexsort((-nodes, -best[nodes], parents[nodes]))
        nodes = nodes[order]
        nodes = nodes[np.flatnonzero(np.diff(parents[nodes], prepend=-1))]
        nodes = nodes[best[nodes] > best[parents[nodes]]]
        best[parents[nodes]], word[parents[nodes]] = best[nodes], word[nodes]
    return fixed(best), fixed(word, np.int32)


def _edges(tree: Tree, nodes: np.ndarray) -> np.ndarray:
    """Return the children of all `nodes`."""
    counts = tree.first[nodes + 1] - tree.first[nodes]
    starts = np.repeat(tree.first[nodes] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    return tree.child[starts + np.arange(counts.sum())].astype(np.int64)


def gram_trie(grams: Sequence[Ngrams]) -> Grams:
    """Make the trie.  grams: of orders 1, 2, ...; the beginning of each n-gram is one too (`NgramModel.grams`)."""
    order, base = len(grams), len(grams[0].words)
    level = [0, 1]
    keys: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]  # by order, sorted: place of the beginning, last word
    sorted_words: list[np.ndarray] = []
    parents, words, log_prob, backoff = [np.array([-1])], [np.array([-1])], [np.zeros(1)], [np.zeros(1)]
    for m, some in enumerate(grams, 1):
        rows = some.words.astype(np.int64)
        sort = np.lexsort(rows.T[::-1])
        rows = rows[sort]
        up = _places(keys, rows[:, :-1], base)
        if (up < 0).any():
            raise Unsupported(f"an n-gram of order {m} has a beginning that is none")
        keys.append(up * base + rows[:, -1])
        parents.append(up + level[m - 1])
        words.append(rows[:, -1])
        log_prob.append(some.log_prob[sort])
        backoff.append(some.backoff[sort])
        level.append(level[-1] + len(rows))
        sorted_words.append(rows)
    contexts = level[order]
    link, virtual = [np.zeros(1, dtype=np.int64)], np.zeros((0, 0), dtype=np.int64)
    for m, rows in enumerate(sorted_words, 1):
        if m < order:
            link.append(_longest_end(keys, level, rows, base))
            continue
        end = _places(keys, rows[:, 1:], base)
        none = end < 0
        end += level[m - 1]
        if none.any():
            virtual, which = np.unique(rows[none, 1:], axis=0, return_inverse=True)
            end[none] = level[-1] + which.ravel()
        link.append(end)
    if len(virtual):
        link.append(_longest_end(keys, level, virtual, base))
    successors = np.searchsorted(np.concatenate(parents)[1:], np.arange(contexts + 1)) + 1
    return Grams(
        successors=fixed(successors, np.int32),
        word=fixed(np.concatenate(words), np.int32),
        log_prob=fixed(np.concatenate(log_prob), np.float32),
        backoff=fixed(np.concatenate(backoff)[:contexts], np.float32),
        link=fixed(np.concatenate(link), np.int32),
        level=fixed(level, np.int64),
    )


def _places(keys: Sequence[np.ndarray], rows: np.ndarray, base: int) -> np.ndarray:
    """Return the place of n-grams (n, m) in their order, -1 where there is none."""
    at, there = np.zeros(len(rows), dtype=np.int64), np.ones(len(rows), dtype=bool)
    for m in range(rows.shape[1]):
        table, wanted = keys[m + 1], at * base + rows[:, m]
        if not len(table):
            return np.full(len(rows), -1)
        at = np.searchsorted(table, wanted)
        at[at == len(table)] = 0
        there &= table[at] == wanted
    return np.where(there, at, -1)


def _longest_end(keys: Sequence[np.ndarray], level: Sequence[int], rows: np.ndarray, base: int) -> np.ndarray:
    """Return the number of the longest proper end of n-grams (n, m) that is an n-gram."""
    found = np.zeros(len(rows), dtype=np.int64)
    left = np.arange(len(rows))
    for cut in range(1, rows.shape[1]):
        m = rows.shape[1] - cut
        place = _places(keys, rows[left, cut:], base)
        found[left[place >= 0]] = place[place >= 0] + level[m]
        left = left[place < 0]
    return found


def hot_tables(hotwords: Hotwords | None) -> Hot:
    """Flatten the automaton of a session; None: of one without hotwords."""
    children: Sequence[Mapping[int, int]] = [{}] if hotwords is None else hotwords._children
    nodes = range(len(children))
    first = np.concatenate([[0], np.cumsum([len(some) for some in children])])
    edges = [(token, child) for some in children for token, child in sorted(some.items())]
    numbers = [[0.0]] * 4
    if hotwords is not None:
        score, credit = [hotwords.score(n) for n in nodes], [hotwords.credit(n) for n in nodes]
        numbers = [score, credit, hotwords._before, hotwords._complete]
    return Hot(
        fixed(first, np.int32),
        fixed([token for token, _ in edges], np.int32),
        fixed([child for _, child in edges], np.int32),
        fixed([0] if hotwords is None else hotwords._fail, np.int32),
        *(fixed(some, np.float64) for some in numbers),
    )


def session_words(tables: Tables, hotwords: Hotwords) -> Vocabulary | None:
    """Return the words of `hotwords` that the lexicon lacks (`WordGuide.start`); None if it has all of them."""

    def known(word: str) -> bool:
        i = tables.word(word)
        return i >= 0 and bool(tables.spelt[i]) and word not in hotwords.pronounced

    new = sorted(word for word in set(hotwords.words) if not known(word))
    if not new:
        return None
    more = Vocabulary(dict(enumerate(new)), {n: hotwords.words[w] for n, w in enumerate(new)}, private=True)
    unknown = tables.word(UNKNOWN)
    alone = UNKNOWN_SCORE if unknown < 0 else float(tables.grams.log_prob[1 + unknown])
    more.look_ahead(np.full(len(new), tables.weight * max(alone, UNKNOWN_SCORE) + tables.bonus))
    return more


def fixed(values: Any, dtype: Any = None) -> np.ndarray:
    """Return a read-only array that lies in one piece."""
    found = np.array(values, dtype=dtype, order="C")
    found.flags.writeable = False
    return found
