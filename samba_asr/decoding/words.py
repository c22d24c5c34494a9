"""Search over words: a guide that grows prefixes along the spellings of a lexicon, and asks a language model about each word.

The lexicon is a prefix tree over token ids.  A unit that begins with `▁` begins a word (`samba_asr.text.units`): a word is over
when the next one begins: then, and at the end of the text, the language model is asked, once for every word that ends in
the node (HE ends where HELLO goes on, SEE and SEA end in the same node where units are phones).  Until then a prefix is
worth the best word that it can still become, by the 1-gram (S. Ortmanns et al., "Language-model look-ahead for large
vocabulary speech recognition", 1996), or good words would be dropped for being long.

    worth of a word = weight ln p(word | words before) + bonus
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from samba_asr.decoding.guide import Ways
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.ngram import BEGIN, END, UNKNOWN, Context, KenLmModel, LanguageModel, mix
from samba_asr.errors import UserError
from samba_asr.text.units import SPACE, Tokenizer

ROOT = 0
SHIFT = 20  # bits of a token in the number of an edge
UNKNOWN_WORTH = -15.0
"""ln p of a word that the language model lacks, where it has no `<unk>` either."""
ENDS = 1 << 15
"""Nodes and contexts whose ends a vocabulary remembers, some 20 MB of them, before it begins anew."""
UNFINISHED = -50.0
"""Nats that a text loses whose last word is none: behind all others, but not away if there is no other."""


class Tree:
    """Spellings as a prefix tree; node 0 is its root, and a child's number is above its parent's."""

    def __init__(self, spellings: Iterable[tuple[int, Sequence[int]]]):
        """spellings: word id and token ids, as often as a word has spellings."""
        self.children: dict[int, int] = {}  # by parent and token in one number: `edge`
        self.parents = [-1]
        self.words: dict[int, list[int]] = {}  # of the nodes that end a word
        children, parents = self.children, self.parents
        for word, tokens in spellings:
            node = ROOT
            for token in tokens:
                key = edge(node, token)
                node = children.get(key, -1)
                if node < 0:
                    node = children[key] = len(parents)
                    parents.append(key >> SHIFT)
            if word not in self.words.setdefault(node, []):
                self.words[node].append(word)

    def step(self, node: int, token: int) -> int:
        """The child, or -1."""
        return self.children.get(edge(node, token), -1)

    def best(self, worth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each node, of the words that end in it or below, the one with the best `worth` (by word id): worth and word."""
        best, word = [-math.inf] * len(self.parents), [0] * len(self.parents)
        for node, words in self.words.items():
            word[node] = max(words, key=lambda w: worth[w])
            best[node] = float(worth[word[node]])
        for node in range(len(self.parents) - 1, 0, -1):
            parent = self.parents[node]
            if best[node] > best[parent]:
                best[parent], word[parent] = best[node], word[node]
        return np.array(best), np.array(word)


def edge(node, token):
    """One number of a node and a token; of arrays, too."""
    return (node << SHIFT) | token


class Vocabulary:
    """Words that a search knows: their spellings as a tree, and the look-ahead of each node."""

    def __init__(self, texts: Mapping[int, str], spellings: Mapping[int, Sequence[Sequence[int]]], private: bool):
        """Both by the words' ids; private: whether these are ids of this vocabulary alone, and not the language model's."""
        self.texts, self.private = texts, private
        self.tree = Tree((word, tokens) for word, some in spellings.items() for tokens in some)
        self.ahead = np.zeros(0)  # by node
        self.likeliest = np.zeros(0, dtype=np.int64)
        self.ends: dict[tuple[Context, int], list[End]] = {}  # of late: what is asked in one frame is asked in the next

    def look_ahead(self, worth: np.ndarray) -> None:
        """worth: of each word by itself, by id."""
        self.ahead, self.likeliest = self.tree.best(worth)
        self.ends = {}


class End(NamedTuple):
    """A word that ends where a prefix does."""

    word: str | None  # None before the first, and where there is none
    label: int
    gain: float  # what the word adds to the prefix's base
    context: Context
    past: int  # of the context, a hash: all that matters of the words so far


class Words:
    """A guide's view: where in which tree the last word stands, and what came before it.

    base: what the prefix is worth but for the word that is being said; bonus: with the best that this word can still become.
    more: words that this session alone knows.
    """

    __slots__ = ("among", "base", "bonus", "context", "ends", "history", "label", "more", "node", "past")
    credit = 0.0

    def __init__(
        self,
        among: Vocabulary,
        node: int,
        base: float,
        bonus: float,
        context: Context,
        history: tuple | None,
        more: Vocabulary | None,
        label: int,
        past: int,
    ):
        self.among, self.node, self.base, self.bonus, self.context = among, node, base, bonus, context
        self.history, self.more, self.label, self.past = history, more, label, past
        self.ends: list[End] | None = None

    @property
    def future(self) -> int:
        return int(_future(np.array([self.past], dtype=np.uint64), np.array([self.node]))[0])


class WordGuide:
    """Texts are words of a lexicon, worth what the language model says; as `samba_asr.decoding.guide.Guide`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: LanguageModel,
        words: Sequence[str] | None = None,
        *,
        weight: float,
        bonus: float,
    ):
        """words: the lexicon; default all that the model knows.  weight, bonus: of the model and of each word, in nats.

        UserError if no word can be both written by the tokenizer and found in the model.
        """
        if isinstance(model, KenLmModel):
            if words is None:
                raise UserError("a KenLM binary does not list its words: give them as decode.lm.words, one a line")
            model.know(words)
        self.model = model
        listed = [word for word in (model.ids if words is None else words) if word not in (BEGIN, END, UNKNOWN)]
        known = [word for word in listed if word in model.ids]
        spelt = {word: tokenizer.spellings(word) for word in known}
        spellings = {model.ids[word]: some for word, some in spelt.items() if some}
        self.vocabulary = Vocabulary({i: word for word, i in model.ids.items()}, spellings, private=False)
        if not self.vocabulary.tree.words:
            raise UserError(
                f"of the {len(listed)} words, such as {listed[:3]}, the language model knows {len(known)} and the recogniser can "
                "write none: they are of different languages, or of different case"
            )
        self.missing = [word for word in listed if not spelt.get(word)]
        self._known = {word for word, some in spelt.items() if some}
        self._unknown = model.ids.get(UNKNOWN)
        pieces = tokenizer.pieces(range(tokenizer.vocab_size))
        self._begins = np.array([piece.startswith(SPACE) for piece in pieces])
        self._spelt = tokenizer.KIND != "phone"
        # Where units are characters the space is one by itself, and no text begins with it.
        space = pieces.index(SPACE) if SPACE in pieces else None
        self._space = space
        self._weigh(weight, bonus)

    def weighted(self, *, weight: float, bonus: float) -> WordGuide:
        """The same words with other weights; quick."""
        other = copy.copy(self)
        other.vocabulary = copy.copy(self.vocabulary)
        other._weigh(weight, bonus)
        return other

    def _weigh(self, weight: float, bonus: float) -> None:
        self.weight, self.bonus = weight, bonus
        ids = sorted({word for words in self.vocabulary.tree.words.values() for word in words})
        worth = np.full(max(ids) + 1, -np.inf)
        worth[ids] = self.weight * self.model.score([()] * len(ids), ids)[0] + self.bonus
        self.vocabulary.look_ahead(worth)

    def start(self, hotwords: Hotwords | None = None) -> Words:
        """Words of `hotwords` that the lexicon lacks are known in this session, as `<unk>` to the language model.

        But they are charged as a rare word at most: some models give `<unk>` a probability of nothing.
        """
        more = None
        new = [] if hotwords is None else sorted(set(hotwords.words) - (self._known - hotwords.pronounced))
        if new:
            more = Vocabulary(dict(enumerate(new)), {n: hotwords.words[w] for n, w in enumerate(new)}, private=True)
            alone = UNKNOWN_WORTH if self._unknown is None else float(self.model.score([()], [self._unknown])[0][0])
            more.look_ahead(np.full(len(new), self.weight * max(alone, UNKNOWN_WORTH) + self.bonus))
        start = self.model.start
        return Words(self.vocabulary, ROOT, 0.0, 0.0, start, None, more, 0, _past(start))

    def extend(self, prefixes: Sequence[Words], tokens: Sequence[int]) -> Ways:
        tokens = np.asarray(tokens, dtype=np.int64)
        node = np.array([prefix.node for prefix in prefixes], dtype=np.int64)
        new = self._begins[tokens] | (node == ROOT)
        ways = self._further(prefixes, node, tokens, np.flatnonzero(~new))
        new = np.flatnonzero(new)
        self._end([prefixes[p] for p in new.tolist()])
        for among in dict.fromkeys([self.vocabulary, *(prefix.more for prefix in prefixes if prefix.more)]):
            ways = ways.beside(self._begin(among, prefixes, tokens, new))
        return ways

    def _further(self, prefixes: Sequence[Words], node: np.ndarray, tokens: np.ndarray, on: np.ndarray) -> Ways:
        """The word goes on.  Most extensions are such, and many lead nowhere: they are what a beam spends its time on."""
        children = self.vocabulary.tree.children
        child = np.array([children.get(key, -1) for key in edge(node[on], tokens[on]).tolist()], dtype=np.int64)
        worth = self.vocabulary.ahead[child]
        for at, p in enumerate(on.tolist()):
            if (among := prefixes[p].among).private:
                child[at] = among.tree.step(prefixes[p].node, int(tokens[p]))
                worth[at] = among.ahead[child[at]]
        there = child >= 0
        on, child, worth = on[there], child[there], worth[there]
        of = on.tolist()
        bonus = worth + np.array([prefixes[p].base for p in of], dtype=np.float64)
        past = np.array([prefixes[p].past for p in of], dtype=np.uint64)

        def view(way: int) -> Words:
            old = prefixes[of[way]]
            return Words(
                old.among, int(child[way]), old.base, float(bonus[way]), old.context, old.history, old.more, 0, old.past
            )

        return Ways(on, bonus, np.zeros(len(on), dtype=np.int64), _future(past, child), view)

    def _begin(self, among: Vocabulary, prefixes: Sequence[Words], tokens: np.ndarray, asked: np.ndarray) -> Ways:
        """The next word, one of `among`, begins with the token; behind each word that ends in the prefix."""
        start = self._start(among)
        firsts = {token: among.tree.step(ROOT, token) for token in set(tokens[asked].tolist())}
        of, node, ends = [], [], []  # a way each
        for p, token in zip(asked.tolist(), tokens[asked].tolist(), strict=True):
            prefix, child = prefixes[p], firsts[token]
            if among.private and prefix.more is not among:
                continue
            if child < 0 and prefix.node == ROOT and start is not None:
                child = among.tree.step(start, token)
            if child >= 0:
                some = prefix.ends
                of += [p] * len(some)
                node += [child] * len(some)
                ends += some
        begun = np.array(node, dtype=np.int64)
        base = np.array([prefixes[p].base + end.gain for p, end in zip(of, ends, strict=True)], dtype=np.float64)
        bonus = base + among.ahead[begun]
        label = 2 * np.array([end.label for end in ends], dtype=np.int64) + among.private
        # Nodes of two trees are not the same.
        past = np.array([end.past for end in ends], dtype=np.uint64) ^ np.uint64(among.private)

        def view(way: int) -> Words:
            prefix, end = prefixes[of[way]], ends[way]
            history = prefix.history if end.word is None else (prefix.history, end.word)
            worth = float(base[way]), float(bonus[way])
            return Words(among, node[way], *worth, end.context, history, prefix.more, int(label[way]), int(past[way]))

        return Ways(np.array(of, dtype=np.int64), bonus, label, _future(past, begun), view)

    def _start(self, among: Vocabulary) -> int | None:
        """Where a text's first word begins, if that is not the root."""
        node = -1 if self._space is None else among.tree.step(ROOT, self._space)
        return None if node < 0 else node

    def _end(self, prefixes: Sequence[Words]) -> None:
        """Find the words that end in each of `prefixes`, and what they are worth there."""
        found: dict[tuple[Vocabulary, Context, int], list[End]] = {}
        for prefix in prefixes:
            if prefix.ends is None:
                among, context, node = prefix.among, prefix.context, prefix.node
                if node == ROOT:
                    prefix.ends = [End(None, 0, 0.0, context, prefix.past)]
                elif (known := among.ends.get((context, node))) is not None:
                    prefix.ends = known
                else:
                    prefix.ends = found.setdefault((among, context, node), [])
        asked = []
        for (among, context, node), ends in found.items():
            for word in among.tree.words.get(node, ()):
                if among.private and self._unknown is None:
                    ends.append(self._ended(among, word, UNKNOWN_WORTH, ()))
                else:
                    asked.append((ends, among, context, word))
        if asked:
            ids = [self._unknown if among.private else word for _, among, _, word in asked]
            scores, after = self.model.score([context for _, _, context, _ in asked], ids)
            for (ends, among, _, word), score, context in zip(asked, scores.tolist(), after, strict=True):
                ends.append(self._ended(among, word, max(score, UNKNOWN_WORTH) if among.private else score, context))
        for (among, context, node), ends in found.items():  # at last, for other threads may look
            if len(among.ends) >= ENDS:
                among.ends.clear()
            among.ends[context, node] = ends

    def _ended(self, among: Vocabulary, word: int, log_prob: float, context: Context) -> End:
        """context: behind the word."""
        return End(among.texts[word], 1 + word, self.weight * log_prob + self.bonus, context, _past(context))

    def finish(self, prefixes: Sequence[Words]) -> list[Words]:
        """With the last word and `</s>`; a text whose last word is none keeps it, far behind."""
        self._end(prefixes)
        whole = [prefix.ends or [self._no_word(prefix)] for prefix in prefixes]
        flat = [end for ends in whole for end in ends]
        closing = iter(self.model.score([end.context for end in flat], [self.model.ids[END]] * len(flat))[0].tolist())
        found = []
        for prefix, ends in zip(prefixes, whole, strict=True):
            ways = [end._replace(gain=end.gain + self.weight * next(closing)) for end in ends]
            best = max(ways, key=lambda end: end.gain)
            history = prefix.history if best.word is None else (prefix.history, best.word)
            worth = prefix.base + best.gain
            found.append(Words(self.vocabulary, ROOT, worth, worth, best.context, history, prefix.more, 0, best.past))
        return found

    def _no_word(self, prefix: Words) -> End:
        between = prefix.node == self._start(prefix.among)
        return End(None, 0, 0.0 if between else UNFINISHED, prefix.context, prefix.past)

    def words(self, prefix: Words) -> tuple[str, ...] | None:
        if self._spelt:
            return None
        found, history = [], prefix.history
        while history is not None:
            history, word = history
            found.append(word)
        if prefix.node != ROOT:  # the word that is being said, as what it most likely is
            found.insert(0, prefix.among.texts[int(prefix.among.likeliest[prefix.node])])
        return tuple(reversed(found))


def _past(context: Context) -> int:
    """Equal for equal contexts, even."""
    return hash(context) << 1 & 2**64 - 1


def _future(past: np.ndarray, node: np.ndarray) -> np.ndarray:
    """past (n,) uint64, node (n,) -> (n,) uint64, equal where both are, never 0."""
    return mix(past, node) | np.uint64(1)
