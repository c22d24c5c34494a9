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
from collections.abc import Iterable, Sequence

import numpy as np

from samba_asr.decoding.ngram import BEGIN, END, UNKNOWN, Context, KenLmModel, LanguageModel
from samba_asr.errors import UserError
from samba_asr.text.units import SPACE, Tokenizer

ROOT = 0
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


class Words:
    """A guide's view: where in the tree the last word stands, and what came before it."""

    __slots__ = ("ahead", "bonus", "context", "ends", "history", "label", "node", "ways")

    def __init__(self, node: int, context: Context, history: tuple | None, bonus: float, ahead: float, label: int):
        self.node, self.context, self.history, self.bonus, self.ahead, self.label = node, context, history, bonus, ahead, label
        self.ends: list[tuple[int, float, Context]] | None = None  # word, worth with it in place of `ahead`, context
        self.ways: dict[int, list[Words]] = {}  # what each token leads to, for frames ask again and again


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
        self.tree = Tree((model.ids[word], tokens) for word, some in spelt.items() for tokens in some)
        if not self.tree.words:
            raise UserError(
                f"of the {len(listed)} words, such as {listed[:3]}, the language model knows {len(known)} and the recogniser can "
                "write none: they are of different languages, or of different case"
            )
        self.missing = [word for word in listed if not spelt.get(word)]
        self._text = {i: word for word, i in model.ids.items()}
        pieces = tokenizer.pieces(range(tokenizer.vocab_size))
        self._begins = [piece.startswith(SPACE) for piece in pieces]
        self._spelt = tokenizer.KIND != "phone"
        # Where units are characters the space is one by itself, and no text begins with it.
        space = pieces.index(SPACE) if SPACE in pieces else None
        self._start = ROOT if space is None else self.tree.step(ROOT, space)
        self._weigh(weight, bonus)

    def weighted(self, *, weight: float, bonus: float) -> WordGuide:
        """The same words with other weights; quick."""
        other = copy.copy(self)
        other._weigh(weight, bonus)
        return other

    def _weigh(self, weight: float, bonus: float) -> None:
        self.weight, self.bonus = weight, bonus
        self._ahead, self._likeliest = (x.tolist() for x in self._look_ahead())

    def _look_ahead(self) -> tuple[np.ndarray, np.ndarray]:
        ids = sorted({word for words in self.tree.words.values() for word in words})
        worth = np.full(max(ids) + 1, -np.inf)
        worth[ids] = self.weight * self.model.score([()] * len(ids), ids)[0] + self.bonus
        return self.tree.best(worth)

    def start(self) -> Words:
        return Words(ROOT, self.model.start, None, 0.0, 0.0, 0)

    def extend(self, prefixes: Sequence[Words], tokens: Sequence[int]) -> list[Sequence[Words]]:
        asked = [p for p, token in zip(prefixes, tokens, strict=True) if token not in p.ways]
        self._end([p for p, token in zip(prefixes, tokens, strict=True) if token not in p.ways and self._begins[token]])
        if asked:
            for prefix, token in zip(prefixes, tokens, strict=True):
                if token not in prefix.ways:
                    prefix.ways[token] = self._ways(prefix, token)
        return [prefix.ways[token] for prefix, token in zip(prefixes, tokens, strict=True)]

    def _ways(self, prefix: Words, token: int) -> list[Words]:
        if self._begins[token] and prefix.node != ROOT:
            if not prefix.ends or (node := self.tree.step(ROOT, token)) is None:
                return []
            ahead = self._ahead[node]
            return [
                Words(node, context, (prefix.history, word), worth + ahead, ahead, 1 + word)
                for word, worth, context in prefix.ends
            ]
        node = self.tree.step(prefix.node, token)
        if node is None and prefix.node == ROOT and self._start is not None:
            node = self.tree.step(self._start, token)
        if node is None:
            return []
        ahead = self._ahead[node]
        return [Words(node, prefix.context, prefix.history, prefix.bonus - prefix.ahead + ahead, ahead, 0)]

    def _end(self, prefixes: Sequence[Words]) -> None:
        """Find the words that end in each of `prefixes`, and what they are worth there."""
        open_, contexts, words = [], [], []
        for prefix in prefixes:
            if prefix.ends is None:
                prefix.ends = []
                for word in self.tree.words.get(prefix.node, ()):
                    open_.append(prefix)
                    contexts.append(prefix.context)
                    words.append(word)
        if words:
            worth, after = self.model.score(contexts, words)
            for prefix, word, w, context in zip(open_, words, worth.tolist(), after, strict=True):
                prefix.ends.append((word, prefix.bonus - prefix.ahead + self.weight * w + self.bonus, context))

    def finish(self, prefixes: Sequence[Words]) -> list[Words]:
        """With the last word and `</s>`; a text whose last word is none keeps it, far behind."""
        self._end(prefixes)
        whole = [prefix.ends or [self._no_word(prefix)] for prefix in prefixes]
        flat = [end for ends in whole for end in ends]
        end = iter(self.model.score([context for *_, context in flat], [self.model.ids[END]] * len(flat))[0].tolist())
        found = []
        for prefix, ends in zip(prefixes, whole, strict=True):
            ways = [(worth + self.weight * next(end), word, context) for word, worth, context in ends]
            worth, word, context = max(ways, key=lambda way: way[0])
            history = prefix.history if word is None else (prefix.history, word)
            found.append(Words(ROOT, context, history, worth, 0.0, 0))
        return found

    def _no_word(self, prefix: Words) -> tuple[None, float, Context]:
        between = prefix.node in (ROOT, self._start)
        return None, prefix.bonus - prefix.ahead + (0.0 if between else UNFINISHED), prefix.context

    def words(self, prefix: Words) -> tuple[str, ...] | None:
        if self._spelt:
            return None
        found, history = [], prefix.history
        while history is not None:
            history, word = history
            found.append(self._text[word])
        if prefix.node != ROOT:  # the word that is being said, as what it most likely is
            found.insert(0, self._text[self._likeliest[prefix.node]])
        return tuple(reversed(found))
