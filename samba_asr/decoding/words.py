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

    def look_ahead(self, worth: np.ndarray) -> None:
        """worth: of each word by itself, by id."""
        self.ahead, self.likeliest = self.tree.best(worth)


class End(NamedTuple):
    """A word that ends where a prefix does."""

    word: str | None  # None before the first, and where there is none
    label: int
    worth: float  # of the prefix, with the word's in place of the look-ahead
    context: Context
    past: int  # of the context, a hash: all that matters of the words so far


class Words:
    """A guide's view: where in which tree the last word stands, and what came before it.

    base: what the prefix is worth but for the word that is being said.  more: words that this session alone knows.
    """

    __slots__ = ("among", "base", "bonus", "context", "ends", "history", "label", "more", "node", "past")

    def __init__(
        self, among: Vocabulary, node: int, base: float, context: Context, history: tuple | None, more: Vocabulary | None,
        label: int, past: int,
    ):  # fmt: skip
        self.among, self.node, self.base, self.context = among, node, base, context
        self.history, self.more, self.label, self.past = history, more, label, past
        self.bonus = base + float(among.ahead[node]) if node != ROOT else base
        self.ends: list[End] | None = None

    @property
    def future(self) -> int:
        return int(_future(np.array([self.past], dtype=np.uint64), np.array([self.node]))[0])


class Begun(NamedTuple):
    """A way to read a prefix whose last token begins a word."""

    of: int
    among: Vocabulary
    node: int
    end: End  # the word before
    label: int
    past: int
    bonus: float


class WordGuide:
    """Texts are words of a lexicon, worth what the language model says; as `samba_asr.decoding.guide.Guide`."""

    def __init__(
        self, tokenizer: Tokenizer, model: LanguageModel, words: Sequence[str] | None = None, *, weight: float, bonus: float
    ):
        """words: the lexicon; default all that the model knows.  weight, bonus: of the model and of each word, in nats.

        UserError if no word can be both written by the tokenizer and found in the model.
        """
        if isinstance(model, KenLmModel):
            if words is None:
                raise UserError("a KenLM binary does not list its words: give them as decode.words, one a line")
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
        """Words of `hotwords` that the lexicon lacks are known in this session, as `<unk>` to the language model."""
        more = None
        if hotwords is not None and (new := sorted(set(hotwords.words) - self._known)):
            more = Vocabulary(dict(enumerate(new)), {n: hotwords.words[w] for n, w in enumerate(new)}, private=True)
            alone = UNKNOWN_WORTH if self._unknown is None else float(self.model.score([()], [self._unknown])[0][0])
            more.look_ahead(np.full(len(new), self.weight * alone + self.bonus))
        start = self.model.start
        return Words(self.vocabulary, ROOT, 0.0, start, None, more, 0, _past(start))

    def extend(self, prefixes: Sequence[Words], tokens: Sequence[int]) -> Ways:
        n, tokens = len(prefixes), np.asarray(tokens, dtype=np.int64)
        node = np.fromiter((prefix.node for prefix in prefixes), dtype=np.int64, count=n)
        new = self._begins[tokens] | (node == ROOT)
        # Most extensions go on with a word, and many of them nowhere: they are what a beam spends its time on.
        on = np.flatnonzero(~new)
        children = self.vocabulary.tree.children
        child = np.fromiter((children.get(key, -1) for key in edge(node[on], tokens[on]).tolist()), dtype=np.int64, count=len(on))
        worth = self.vocabulary.ahead[child]
        for at, p in enumerate(on.tolist()):
            if prefixes[p].among.private:
                among = prefixes[p].among
                child[at] = among.tree.step(prefixes[p].node, int(tokens[p]))
                worth[at] = among.ahead[child[at]]
        there = child >= 0
        on, child, worth = on[there], child[there], worth[there]
        bonus = worth + np.fromiter((prefixes[p].base for p in on.tolist()), dtype=np.float64, count=len(on))
        begun = self._begin(prefixes, tokens, np.flatnonzero(new).tolist())

        def further(way: int) -> Words:
            prefix = prefixes[on[way]]
            node = int(child[way])
            return Words(prefix.among, node, prefix.base, prefix.context, prefix.history, prefix.more, 0, prefix.past)

        def anew(way: int) -> Words:
            of, among, node, end, label, past, _ = begun[way]
            prefix = prefixes[of]
            history = prefix.history if end.word is None else (prefix.history, end.word)
            return Words(among, node, end.worth, end.context, history, prefix.more, label, past)

        past = np.fromiter((prefixes[p].past for p in on.tolist()), dtype=np.uint64, count=len(on))
        old = Ways(on, bonus, np.zeros(len(on), dtype=np.int64), _future(past, child), further)
        of, label, start = (np.array([getattr(way, name) for way in begun], dtype=np.int64) for name in ("of", "label", "node"))
        worth = np.array([way.bonus for way in begun], dtype=np.float64)
        past = np.array([way.past for way in begun], dtype=np.uint64)
        return old.beside(Ways(of, worth, label, _future(past, start), anew))

    def _begin(self, prefixes: Sequence[Words], tokens: np.ndarray, asked: Sequence[int]) -> list[Begun]:
        """The next word begins with the token; behind each word that ends in the prefix."""
        self._end([prefixes[p] for p in asked if self._begins[tokens[p]]])
        found = []
        for p in asked:
            prefix, token = prefixes[p], int(tokens[p])
            for among in (self.vocabulary, prefix.more) if prefix.more else (self.vocabulary,):
                node = among.tree.step(ROOT, token)
                ends = prefix.ends
                if prefix.node == ROOT:
                    if node < 0 and (start := self._start(among)) is not None:
                        node = among.tree.step(start, token)
                    ends = (End(None, 0, prefix.base, prefix.context, prefix.past),)
                if node >= 0:
                    ahead = among.ahead[node]
                    for end in ends:
                        past = end.past ^ among.private  # nodes of two trees are not the same
                        found.append(Begun(p, among, node, end, 2 * end.label + among.private, past, end.worth + ahead))
        return found

    def _start(self, among: Vocabulary) -> int | None:
        """Where a text's first word begins, if that is not the root."""
        node = -1 if self._space is None else among.tree.step(ROOT, self._space)
        return None if node < 0 else node

    def _end(self, prefixes: Sequence[Words]) -> None:
        """Find the words that end in each of `prefixes`, and what they are worth there."""
        asked, contexts, ids = [], [], []
        for prefix in prefixes:
            if prefix.ends is None:
                prefix.ends = []
                for word in prefix.among.tree.words.get(prefix.node, ()):
                    if prefix.among.private and self._unknown is None:
                        self._add_end(prefix, word, UNKNOWN_WORTH, ())
                    else:
                        asked.append((prefix, word))
                        contexts.append(prefix.context)
                        ids.append(self._unknown if prefix.among.private else word)
        if asked:
            worth, after = self.model.score(contexts, ids)
            for (prefix, word), w, context in zip(asked, worth.tolist(), after, strict=True):
                self._add_end(prefix, word, w, context)

    def _add_end(self, prefix: Words, word: int, log_prob: float, context: Context) -> None:
        worth = prefix.base + self.weight * log_prob + self.bonus
        prefix.ends.append(End(prefix.among.texts[word], 1 + word, worth, context, _past(context)))

    def finish(self, prefixes: Sequence[Words]) -> list[Words]:
        """With the last word and `</s>`; a text whose last word is none keeps it, far behind."""
        self._end(prefixes)
        whole = [prefix.ends or [self._no_word(prefix)] for prefix in prefixes]
        flat = [end for ends in whole for end in ends]
        closing = iter(self.model.score([end.context for end in flat], [self.model.ids[END]] * len(flat))[0].tolist())
        found = []
        for prefix, ends in zip(prefixes, whole, strict=True):
            ways = [end._replace(worth=end.worth + self.weight * next(closing)) for end in ends]
            best = max(ways, key=lambda end: end.worth)
            history = prefix.history if best.word is None else (prefix.history, best.word)
            found.append(Words(self.vocabulary, ROOT, best.worth, best.context, history, prefix.more, 0, best.past))
        return found

    def _no_word(self, prefix: Words) -> End:
        between = prefix.node in (ROOT, self._start(prefix.among))
        return End(None, 0, prefix.base + (0.0 if between else UNFINISHED), prefix.context, prefix.past)

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
