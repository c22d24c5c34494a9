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
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.ngram import BEGIN, END, UNKNOWN, Context, KenLmModel, LanguageModel
from samba_asr.errors import UserError
from samba_asr.text.units import SPACE, Tokenizer

ROOT = 0
UNKNOWN_WORTH = -15.0
"""ln p of a word that the language model lacks, where it has no `<unk>` either."""
UNFINISHED = -50.0
"""Nats that a text loses whose last word is none: behind all others, but not away if there is no other."""


class Tree:
    """Spellings as a prefix tree; node 0 is its root."""

    def __init__(self, spellings: Iterable[tuple[int, Sequence[int]]]):
        """spellings: word id and token ids, as often as a word has spellings."""
        self.children: list[dict[int, int] | None] = [{}]
        self.words: dict[int, list[int]] = {}  # of the nodes that end a word
        for word, tokens in spellings:
            node = ROOT
            for token in tokens:
                node = self._child(node, token)
            if word not in self.words.setdefault(node, []):
                self.words[node].append(word)

    def _child(self, node: int, token: int) -> int:
        children = self.children[node]
        if children is None:
            children = self.children[node] = {}
        if token not in children:
            children[token] = len(self.children)
            self.children.append(None)  # an object for each leaf would take most of the memory
        return children[token]

    def step(self, node: int, token: int) -> int | None:
        children = self.children[node]
        return None if children is None else children.get(token)

    def best(self, worth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each node, of the words that end in it or below, the one with the best `worth` (by word id): worth and word."""
        best, word = np.full(len(self.children), -np.inf), np.zeros(len(self.children), dtype=np.int64)
        for node, words in self.words.items():
            word[node] = max(words, key=lambda w: worth[w])
            best[node] = worth[word[node]]
        for node in reversed(range(len(self.children))):  # a child's number is above its parent's
            for child in (self.children[node] or {}).values():
                if best[child] > best[node]:
                    best[node], word[node] = best[child], word[child]
        return best, word


class Vocabulary:
    """Words that a search knows: their spellings as a tree, and the look-ahead of each node."""

    def __init__(self, texts: Mapping[int, str], spellings: Mapping[int, Sequence[Sequence[int]]], private: bool):
        """Both by the words' ids; private: whether these are ids of this vocabulary alone, and not the language model's."""
        self.texts, self.private = texts, private
        self.tree = Tree((word, tokens) for word, some in spellings.items() for tokens in some)
        self.ahead: list[float] = []
        self.likeliest: list[int] = []

    def look_ahead(self, worth: np.ndarray) -> None:
        """worth: of each word by itself, by id."""
        self.ahead, self.likeliest = (x.tolist() for x in self.tree.best(worth))


class End(NamedTuple):
    """A word that ends where a prefix does."""

    word: str | None  # None before the first, and where there is none
    label: int
    worth: float  # of the prefix, with the word's in place of the look-ahead
    context: Context


class Words:
    """A guide's view: where in which tree the last word stands, and what came before it.

    base: what the prefix is worth but for the word that is being said.  more: words that this session alone knows.
    """

    __slots__ = ("among", "base", "bonus", "context", "ends", "history", "label", "more", "node", "ways")

    def __init__(
        self, among: Vocabulary, node: int, base: float, context: Context, history: tuple | None, more: Vocabulary | None,
        label: int,
    ):  # fmt: skip
        self.among, self.node, self.base, self.context = among, node, base, context
        self.history, self.more, self.label = history, more, label
        self.bonus = base + among.ahead[node] if node != ROOT else base
        self.ends: list[End] | None = None
        self.ways: dict[int, Sequence[Words]] | None = None  # what each token leads to, for frames ask again and again


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
        self._begins = [piece.startswith(SPACE) for piece in pieces]
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
        return Words(self.vocabulary, ROOT, 0.0, self.model.start, None, more, 0)

    def extend(self, prefixes: Sequence[Words], tokens: Sequence[int]) -> list[Sequence[Words]]:
        begins, found, new = self._begins, [], []
        # Most extensions go on with a word, and many of them nowhere: this loop is what a beam spends its time in.
        for n, (prefix, token) in enumerate(zip(prefixes, tokens, strict=True)):
            if prefix.ways is None:
                prefix.ways = {}
            ways = prefix.ways.get(token)
            if ways is None and prefix.node != ROOT and not begins[token]:
                among, children = prefix.among, prefix.among.tree.children[prefix.node]
                node = None if children is None else children.get(token)
                ways = () if node is None else (
                    Words(among, node, prefix.base, prefix.context, prefix.history, prefix.more, 0),
                )  # fmt: skip
                prefix.ways[token] = ways
            elif ways is None:
                new.append(n)
            found.append(ways)
        if new:
            self._end([prefixes[n] for n in new if begins[tokens[n]]])
            for n in new:
                found[n] = prefixes[n].ways[tokens[n]] = self._begin(prefixes[n], tokens[n])
        return found

    def _begin(self, prefix: Words, token: int) -> Sequence[Words]:
        """The next word begins with `token`; behind each word that ends here."""
        found = []
        for among in (self.vocabulary, prefix.more) if prefix.more else (self.vocabulary,):
            node = among.tree.step(ROOT, token)
            if prefix.node == ROOT:
                if node is None and (start := self._start(among)) is not None:
                    node = among.tree.step(start, token)
                ends = (End(None, 0, prefix.base, prefix.context),)
            else:
                ends = prefix.ends
            if node is not None:
                for word, label, worth, context in ends:
                    history = prefix.history if word is None else (prefix.history, word)
                    found.append(Words(among, node, worth, context, history, prefix.more, 2 * label + among.private))
        return found

    def _start(self, among: Vocabulary) -> int | None:
        """Where a text's first word begins, if that is not the root."""
        return None if self._space is None else among.tree.step(ROOT, self._space)

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
        prefix.ends.append(End(prefix.among.texts[word], 1 + word, worth, context))

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
            found.append(Words(self.vocabulary, ROOT, best.worth, best.context, history, prefix.more, 0))
        return found

    def _no_word(self, prefix: Words) -> End:
        between = prefix.node in (ROOT, self._start(prefix.among))
        return End(None, 0, prefix.base + (0.0 if between else UNFINISHED), prefix.context)

    def words(self, prefix: Words) -> tuple[str, ...] | None:
        if self._spelt:
            return None
        found, history = [], prefix.history
        while history is not None:
            history, word = history
            found.append(word)
        if prefix.node != ROOT:  # the word that is being said, as what it most likely is
            found.insert(0, prefix.among.texts[prefix.among.likeliest[prefix.node]])
        return tuple(reversed(found))
