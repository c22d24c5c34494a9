"""Search over words: a guide that extends prefixes along the spellings of a lexicon, and scores words by a language model.

The lexicon is a prefix tree over token ids.  A unit that begins with `▁` begins a word (`samba_asr.text.units`).  A word is
complete when the next one begins, or at the end of the text.  Then the language model scores every word that ends in the node:
HE ends where HELLO continues; SEE and SEA end in one node where units are phones.  Until then a prefix has the score of the best
word that it can still become, by the 1-gram (S. Ortmanns et al., "Language-model look-ahead for large vocabulary speech
recognition", 1996).  Without that look-ahead, good words would be dropped for being long.

    score of a word = weight ln p(word | words before) + bonus
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from samba_asr.decoding.guide import Extensions, Tokens
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.ngram import BEGIN, END, UNKNOWN, Context, KenLmModel, LanguageModel, mix
from samba_asr.errors import UserError
from samba_asr.text.units import SPACE, Tokenizer

ROOT = 0
SHIFT = 20  # bits of the token in the key of an edge
PRIVATE = 0xD6E8FEB86659FD93  # distinguishes the words of a session from those of the lexicon
UNKNOWN_SCORE = -15.0
"""ln p of a word that the language model lacks, where it has no `<unk>` either."""
ENDS = 1 << 15
"""Pairs of node and context whose ends a vocabulary caches, some 20 MB, before the cache is cleared."""
UNFINISHED = -50.0
"""Penalty in nats for a hypothesis that ends in an incomplete word: ranked last, but kept if it is the only one."""


class Tree:
    """Spellings as a prefix tree; node 0 is its root, and a child's number is above its parent's."""

    def __init__(self, spellings: Iterable[tuple[int, Sequence[int]]]):
        """spellings: pairs of word id and token ids, one for each spelling of a word."""
        self.children: dict[int, int] = {}  # by `edge` of parent and token
        self.parents = [-1]
        self.words: dict[int, list[int]] = {}  # ids of the words that end in a node
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
        """Return the child, or -1."""
        return self.children.get(edge(node, token), -1)

    def best(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, by node, the best of `scores` (by word id) among the words that end in it or below, and that word."""
        best, word = [-math.inf] * len(self.parents), [0] * len(self.parents)
        for node, words in self.words.items():
            word[node] = max(words, key=lambda w: scores[w])
            best[node] = float(scores[word[node]])
        for node in range(len(self.parents) - 1, 0, -1):
            parent = self.parents[node]
            if best[node] > best[parent]:
                best[parent], word[parent] = best[node], word[node]
        return np.array(best), np.array(word)


def edge(node, token):
    """Pack a node and a token into one key; arrays work too."""
    return (node << SHIFT) | token


class Vocabulary:
    """Words of a search: their spellings as a tree, and the look-ahead score of each node."""

    def __init__(self, texts: Mapping[int, str], spellings: Mapping[int, Sequence[Sequence[int]]], private: bool):
        """texts, spellings: by word id.  private: whether the ids are those of this vocabulary, not the language model's."""
        self.texts, self.private = texts, private
        self.tree = Tree((word, tokens) for word, some in spellings.items() for tokens in some)
        self.ahead = np.zeros(0)  # by node
        self.likeliest = np.zeros(0, dtype=np.int64)
        self.ends: dict[tuple[Context, int], list[End]] = {}  # cache: successive frames need the same ends

    def look_ahead(self, scores: np.ndarray) -> None:
        """Compute the look-ahead of each node from `scores`, those of single words, by id."""
        self.ahead, self.likeliest = self.tree.best(scores)
        self.ends = {}


class End(NamedTuple):
    """A word that ends where a prefix ends."""

    word: str | None  # None before the first word, and for an incomplete word
    label: int
    gain: float  # score that the word adds to the prefix's base
    context: Context  # after the word
    past: int  # hash of the context: the next words' scores depend on nothing else


class WordPrefix:
    """View of a prefix: the node of its last word in a tree, and the words before it.

    base: score of the prefix without its last, incomplete word.  bonus: with the best word that this one can still become.
    more: words that only this session knows.
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
    def recombination(self) -> int:
        return int(_recombination_key(np.array([self.past], dtype=np.uint64), np.array([self.node]))[0])


class WordGuide:
    """Guide to texts of words from a lexicon, scored by a language model (`samba_asr.decoding.guide.Guide`)."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        model: LanguageModel,
        words: Sequence[str] | None = None,
        *,
        weight: float,
        bonus: float,
    ):
        """words: the lexicon, default all words of the model.  weight: of the model.  bonus: nats, added for each word.

        UserError if no word is both in the model and writable by the tokenizer.
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
                f"of the {len(listed)} words, such as {listed[:3]}, the language model knows {len(known)} and the recognizer can "
                "write none: they are of different languages, or of different case"
            )
        self.missing = [word for word in listed if not spelt.get(word)]
        self._known = {word for word, some in spelt.items() if some}
        self._unknown = model.ids.get(UNKNOWN)
        pieces = tokenizer.pieces(range(tokenizer.vocab_size))
        self.begins = np.array([piece.startswith(SPACE) for piece in pieces])
        self._tokens_spell_words = tokenizer.KIND != "phone"
        # Where units are characters, the space is a unit by itself, and no text begins with it.
        space = pieces.index(SPACE) if SPACE in pieces else None
        self._space = space
        self.tables: Any = None  # of the compiled search, once it asked for them
        self._weigh(weight, bonus)

    def weighted(self, *, weight: float, bonus: float) -> WordGuide:
        """Return a guide to the same words with other weights; fast."""
        other = copy.copy(self)
        other.vocabulary = copy.copy(self.vocabulary)
        other._weigh(weight, bonus)
        return other

    def _weigh(self, weight: float, bonus: float) -> None:
        self.weight, self.bonus = weight, bonus
        ids = sorted({word for words in self.vocabulary.tree.words.values() for word in words})
        score = np.full(max(ids) + 1, -np.inf)
        score[ids] = self.weight * self.model.score([()] * len(ids), ids)[0] + self.bonus
        self.vocabulary.look_ahead(score)

    def start(self, hotwords: Hotwords | None = None) -> WordPrefix:
        """Add words of `hotwords` that the lexicon lacks for this session; the language model scores them as `<unk>`.

        Their score is at least `UNKNOWN_SCORE`, because some models give `<unk>` the probability 0.
        """
        more = None
        if hotwords and (new := sorted(set(hotwords.words) - (self._known - hotwords.pronounced))):
            more = Vocabulary(dict(enumerate(new)), {n: hotwords.words[w] for n, w in enumerate(new)}, private=True)
            alone = UNKNOWN_SCORE if self._unknown is None else float(self.model.score([()], [self._unknown])[0][0])
            more.look_ahead(np.full(len(new), self.weight * max(alone, UNKNOWN_SCORE) + self.bonus))
        start = self.model.start
        return WordPrefix(self.vocabulary, ROOT, 0.0, 0.0, start, None, more, 0, _past(start))

    def extend(self, prefixes: Sequence[WordPrefix], tokens: Tokens) -> Extensions:
        tokens = np.asarray(tokens, dtype=np.int64)
        node = np.array([prefix.node for prefix in prefixes], dtype=np.int64)
        new = self.begins[tokens] | (node == ROOT)
        extensions = self._extend_words(prefixes, node, tokens, np.flatnonzero(~new))
        new = np.flatnonzero(new)
        self._find_ends([prefixes[p] for p in new.tolist()])
        for among in dict.fromkeys([self.vocabulary, *(prefix.more for prefix in prefixes if prefix.more)]):
            extensions = extensions.merge(self._begin_words(among, prefixes, tokens, new))
        return extensions

    def _extend_words(
        self, prefixes: Sequence[WordPrefix], node: np.ndarray, tokens: np.ndarray, on: np.ndarray
    ) -> Extensions:
        """Extend the last words.  Most extensions are of this kind and many have no node, so this is vectorized."""
        children = self.vocabulary.tree.children
        child = np.array([children.get(key, -1) for key in edge(node[on], tokens[on]).tolist()], dtype=np.int64)
        score = self.vocabulary.ahead[child]
        for at, p in enumerate(on.tolist()):
            if (among := prefixes[p].among).private:
                child[at] = among.tree.step(prefixes[p].node, int(tokens[p]))
                score[at] = among.ahead[child[at]]
        there = child >= 0
        on, child, score = on[there], child[there], score[there]
        of = on.tolist()
        bonus = score + np.array([prefixes[p].base for p in of], dtype=np.float64)
        past = np.array([prefixes[p].past for p in of], dtype=np.uint64)

        def view(i: int) -> WordPrefix:
            old = prefixes[of[i]]
            return WordPrefix(
                old.among, int(child[i]), old.base, float(bonus[i]), old.context, old.history, old.more, 0, old.past
            )

        return Extensions(on, bonus, np.zeros(len(on), dtype=np.int64), _recombination_key(past, child), view)

    def _begin_words(
        self, among: Vocabulary, prefixes: Sequence[WordPrefix], tokens: np.ndarray, asked: np.ndarray
    ) -> Extensions:
        """Begin the next word, one of `among`, with the token, after each word that ends in the prefix."""
        start = self._start(among)
        firsts = {token: among.tree.step(ROOT, token) for token in set(tokens[asked].tolist())}
        of, node, ends = [], [], []  # one entry an extension
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
        # Nodes of two trees must not share a recombination key.  (A small number would be lost when the node is mixed in.)
        past = np.array([end.past for end in ends], dtype=np.uint64) ^ np.uint64(PRIVATE * among.private)

        def view(i: int) -> WordPrefix:
            prefix, end = prefixes[of[i]], ends[i]
            history = prefix.history if end.word is None else (prefix.history, end.word)
            score = float(base[i]), float(bonus[i])
            return WordPrefix(among, node[i], *score, end.context, history, prefix.more, int(label[i]), int(past[i]))

        return Extensions(np.array(of, dtype=np.int64), bonus, label, _recombination_key(past, begun), view)

    def _start(self, among: Vocabulary) -> int | None:
        """Return the node where a text's first word begins; None if that is the root."""
        node = -1 if self._space is None else among.tree.step(ROOT, self._space)
        return None if node < 0 else node

    def _find_ends(self, prefixes: Sequence[WordPrefix]) -> None:
        """Find and score the words that end in each of `prefixes`."""
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
                    ends.append(self._make_end(among, word, UNKNOWN_SCORE, ()))
                else:
                    asked.append((ends, among, context, word))
        if asked:
            ids = [
                self._unknown if among.private and self._unknown is not None else word for _, among, _, word in asked
            ]
            scores, after = self.model.score([context for _, _, context, _ in asked], ids)
            for (ends, among, _, word), score, context in zip(asked, scores.tolist(), after, strict=True):
                ends.append(self._make_end(among, word, max(score, UNKNOWN_SCORE) if among.private else score, context))
        for (among, context, node), ends in found.items():  # published last: other threads may read
            if len(among.ends) >= ENDS:
                among.ends.clear()
            among.ends[context, node] = ends

    def _make_end(self, among: Vocabulary, word: int, log_prob: float, context: Context) -> End:
        """context: after the word."""
        return End(among.texts[word], 1 + word, self.weight * log_prob + self.bonus, context, _past(context))

    def finish(self, prefixes: Sequence[WordPrefix]) -> list[WordPrefix]:
        """Complete each prefix with its last word and `</s>`; an incomplete last word costs `UNFINISHED`."""
        self._find_ends(prefixes)
        whole = [prefix.ends or [self._incomplete(prefix)] for prefix in prefixes]
        flat = [end for ends in whole for end in ends]
        closing = iter(self.model.score([end.context for end in flat], [self.model.ids[END]] * len(flat))[0].tolist())
        found = []
        for prefix, ends in zip(prefixes, whole, strict=True):
            closed = [end._replace(gain=end.gain + self.weight * next(closing)) for end in ends]
            best = max(closed, key=lambda end: end.gain)
            history = prefix.history if best.word is None else (prefix.history, best.word)
            score = prefix.base + best.gain
            found.append(
                WordPrefix(self.vocabulary, ROOT, score, score, best.context, history, prefix.more, 0, best.past)
            )
        return found

    def _incomplete(self, prefix: WordPrefix) -> End:
        between = prefix.node == self._start(prefix.among)
        return End(None, 0, 0.0 if between else UNFINISHED, prefix.context, prefix.past)

    def words(self, prefix: WordPrefix) -> tuple[str, ...] | None:
        if self._tokens_spell_words:
            return None
        found, history = [], prefix.history
        while history is not None:
            history, word = history
            found.append(word)
        if prefix.node != ROOT:  # the incomplete word, as the likeliest one
            found.insert(0, prefix.among.texts[int(prefix.among.likeliest[prefix.node])])
        return tuple(reversed(found))


def _past(context: Context) -> int:
    """Hash a context to an even number."""
    return hash(context) << 1 & 2**64 - 1


def _recombination_key(past: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Hash past (n,) uint64 and node (n,) to (n,) uint64: equal where both are equal, never 0."""
    return mix(past, node) | np.uint64(1)
