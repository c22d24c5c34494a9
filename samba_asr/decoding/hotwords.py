"""Hotwords: a score bonus for phrases that a session expects, in any search that keeps several prefixes.

The phrases are an automaton over token ids (A. Aho, M. Corasick, "Efficient string matching", 1975; in speech recognition:
G. Pundak et al., "Deep context", 2018, section 2.2, and k2's `ContextGraph`).  Each recognized unit of a phrase adds `weight`
nats at once, so that the phrase survives the beam before it is complete.  If the prefix then continues otherwise, all of that is
taken back.  Only whole words match: ANNA adds nothing for ANN.

The bonus that may be taken back is credit, and the search drops nothing because of credit.  Without that rule, JUSTINIAN, with
1.5 nats a unit, had 13.5 nats of it, more than `decode.search.prune`: all prefixes with JUSTINIAN'S were dropped meanwhile, with
up to 24 words after it.

    view: node      the longest suffix of the prefix that begins a phrase
          kept      score of the phrases before that suffix
          bonus     kept + score of the node: of its complete phrases or of its partial phrase, whichever is larger
          credit    score of the node without the phrases that are complete before its last word
"""

from __future__ import annotations

import itertools
import logging
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from samba_asr.decoding.guide import Extensions, Tokens
from samba_asr.errors import UserError
from samba_asr.text.lexicon import Pronunciation
from samba_asr.text.lines import read_lines
from samba_asr.text.pronunciation import Guess, Speller, Spelt
from samba_asr.text.units import SPACE, Tokenizer

logger = logging.getLogger(__name__)

ROOT = 0
MOST_WAYS = 64  # spellings of a phrase, from pronunciations of its words; further ones are ignored
MOST_WEIGHT = 20.0


class Hotwords:
    """Automaton of phrases; made once for a session, and shared by its beams."""

    def __init__(self, tokenizer: Tokenizer, phrases: Mapping[str, float], guess: Guess | None = None):
        """phrases: with weights in nats a unit.  A weight below 0 avoids the phrase, a weight of 0 ignores it.

        A phrase may have any case and punctuation, and its pronunciation after it: `KUBERNETES = K UW B ...`.
        guess: predicts pronunciations of words that a phone tokenizer's lexicon lacks (default:
            `samba_asr.models.pronouncer`).
        Phrases that this tokenizer cannot write are ignored, with a warning, and listed in `unusable`.
        UserError for a weight out of range.
        """
        self.words: dict[str, list[list[int]]] = {}  # words of the phrases, and their spellings
        self.texts: dict[str, float] = {}  # phrases as the model writes them, and their weights
        self._children: list[dict[int, int]] = [{}]
        self._parent, self._depth = [ROOT], [0]
        self._partial = [0.0]  # by node: score of the partial phrase
        self._whole: list[float | None] = [None]  # by node: score of the phrase that is its path
        self._before = [0.0]  # by node: score of the phrases in its path that are complete before its last word
        self._complete = [0.0]  # by node: the same if its last word ends here
        pieces = tokenizer.pieces(range(tokenizer.vocab_size))
        self.begins = [piece.startswith(SPACE) for piece in pieces]
        self.pronounced: set[str] = set()  # words that came with a pronunciation
        self.unusable: dict[str, str] = {}  # ignored phrases, and the reasons
        for phrase, weight in phrases.items():
            if not isinstance(weight, Real) or not abs(weight) <= MOST_WEIGHT:
                limits = f"from {-MOST_WEIGHT:g} to {MOST_WEIGHT:g} nats a unit"
                raise UserError(f"hotword {phrase!r}: weight {weight!r} must be {limits}")
        wanted = {phrase: weight for phrase, weight in phrases.items() if weight != 0}
        for phrase, parts in self._written(Speller(tokenizer, guess or guess_pronunciations), wanted).items():
            self.words |= {part.text: part.ways for part in parts}
            self.texts[" ".join(part.text for part in parts)] = wanted[phrase]
            for way in itertools.islice(itertools.product(*(part.ways for part in parts)), MOST_WAYS):
                self._add([token for spelling in way for token in spelling], wanted[phrase])
        for phrase, why in self.unusable.items():
            logger.warning("hotword %r is left out: %s", phrase, why)
        self._fail = self._failures()
        self._moves: dict[tuple[int, int], tuple[int, float]] = {}
        # Where units are characters, the space is a unit by itself, and no text begins with it.
        self.start = self._children[ROOT].get(pieces.index(SPACE), ROOT) if SPACE in pieces else ROOT

    def _written(self, speller: Speller, phrases: Iterable[str]) -> dict[str, tuple[Spelt, ...]]:
        """Spell each phrase in the model's units; phrases that it cannot write go to `unusable`."""
        found: dict[str, tuple[Spelt, ...]] = {}
        spelt = speller.spell(word for phrase in phrases if "=" not in phrase for word in phrase.split())
        for phrase in phrases:
            words = phrase.split()
            try:
                if "=" in phrase:
                    found[phrase] = (speller.pronounced(phrase),)
                    self.pronounced.add(found[phrase][0].text)
                elif words and all(word in spelt for word in words):
                    found[phrase] = tuple(part for word in words for part in spelt[word])
                else:
                    strange = [word for word in words if word not in spelt]
                    raise UserError(f"this model cannot write {strange[0]!r}" if strange else "it is empty")
            except UserError as error:
                self.unusable[phrase] = str(error)
        return found

    def _add(self, tokens: Sequence[int], weight: float) -> None:
        node = ROOT
        for depth, token in enumerate(tokens, 1):
            if token not in self._children[node]:
                self._children[node][token] = len(self._children)
                self._children.append({})
                self._parent.append(node)
                self._depth.append(depth)
                self._partial.append(depth * weight)
                self._whole.append(None)
                self._before.append(0.0)
                self._complete.append(0.0)
            node = self._children[node][token]
            self._partial[node] = max(self._partial[node], depth * weight)
        self._whole[node] = len(tokens) * weight

    def _failures(self) -> list[int]:
        """Return, for each node, the longest proper suffix of its path that is a node; also score complete phrases."""
        fail, queue = [ROOT] * len(self._children), deque([ROOT])
        while queue:  # shorter paths first
            node = queue.popleft()
            for token, child in self._children[node].items():
                other = fail[node]
                while other != ROOT and token not in self._children[other]:
                    other = fail[other]
                fail[child] = self._children[other].get(token, ROOT) if node != ROOT else ROOT
                self._before[child] = self._done(node, token)
                self._complete[child] = self._best(child, fail)
                queue.append(child)
        return fail

    def _best(self, node: int, fail: Sequence[int]) -> float:
        """Return the best sum of phrases in the path to `node` that do not overlap."""
        ends, end = [], node
        while end != ROOT:
            if (score := self._whole[end]) is not None:
                start = node
                for _ in range(self._depth[end]):
                    start = self._parent[start]
                ends.append(score + self._complete[start])
            end = fail[end]
        return (
            max([*ends, self._before[node]]) if not ends or max(ends) > 0 else max(ends)
        )  # phrases with negative weights must be matched too

    def _done(self, node: int, token: int) -> float:
        """Return the score of the complete phrases in the path to `node` if `token` comes next."""
        return self._complete[node] if self.begins[token] else self._before[node]

    def score(self, node: int) -> float:
        """Return the score of a node: of its complete phrases or of its partial phrase, whichever is larger."""
        return max(self._partial[node], self._before[node], key=abs)

    def credit(self, node: int) -> float:
        """Return the part of the score that is taken back if the prefix continues otherwise."""
        return self.score(node) - self._before[node]

    def text_score(self, tokens: Sequence[int], words: Sequence[str] | None) -> float:
        """Return the score of the phrases in a whole text; by its words, if it has words, so homophones do not match."""
        if words is not None:
            said = f" {' '.join(words)} "
            return sum(weight * said.count(f" {phrase} ") for phrase, weight in self.texts.items())
        node, score = self.start, 0.0
        for token in tokens:
            node, left = self.move(node, token)
            score += left
        score += self.complete(node)
        return score if abs(score) > 1e-6 else 0.0  # a bonus that was taken back leaves a rounding error

    def complete(self, node: int) -> float:
        """Return the score of the complete phrases in the path to `node` at the end of a text."""
        return self._complete[node]

    def move(self, node: int, token: int) -> tuple[int, float]:
        """Return the next node, and the score of the complete phrases that are no longer in its path."""
        key = (node, token)
        if key not in self._moves:
            end = node
            while end != ROOT and token not in self._children[end]:
                end = self._fail[end]
            # Phrases in the new path count with the new node.
            self._moves[key] = self._children[end].get(token, ROOT), self._done(node, token) - self._done(end, token)
        return self._moves[key]


@dataclass(frozen=True, slots=True, eq=False)
class HotwordPrefix:
    """View of a prefix; the head of this file explains the fields."""

    hotwords: Hotwords
    node: int
    kept: float
    bonus: float
    credit: float = 0.0
    label: int = 0

    @property
    def recombination(self) -> int:
        return (1 + self.node) * 0x9E3779B97F4A7C15 % 2**64  # spread: the search mixes it with the last token


class HotwordGuide:
    """Guide for sessions with hotwords (`samba_asr.decoding.guide.Guide`); other sessions are not guided."""

    def start(self, hotwords: Hotwords | None = None) -> HotwordPrefix | None:
        if hotwords is None or not hotwords.words:
            return None
        node = hotwords.start
        return HotwordPrefix(hotwords, node, 0.0, hotwords.score(node), hotwords.credit(node))

    def extend(self, prefixes: Sequence[HotwordPrefix], tokens: Tokens) -> Extensions:
        return Extensions.each([_next(prefix, token) for prefix, token in zip(prefixes, tokens, strict=True)])

    def finish(self, prefixes: Sequence[HotwordPrefix]) -> list[HotwordPrefix]:
        return [_finished(prefix) for prefix in prefixes]

    def words(self, prefix: HotwordPrefix) -> None:
        return None


def _next(prefix: HotwordPrefix, token: int) -> HotwordPrefix:
    node, left = prefix.hotwords.move(prefix.node, token)
    kept = prefix.kept + left
    return HotwordPrefix(prefix.hotwords, node, kept, kept + prefix.hotwords.score(node), prefix.hotwords.credit(node))


def _finished(prefix: HotwordPrefix) -> HotwordPrefix:
    kept = prefix.kept + prefix.hotwords.complete(prefix.node)
    return HotwordPrefix(prefix.hotwords, ROOT, kept, kept)


def guess_pronunciations(words: Sequence[str]) -> Mapping[str, Sequence[Pronunciation]]:
    """Predict pronunciations by the shipped model; without it return none, with a warning."""
    from samba_asr.models.pronouncer import load_pronouncer

    try:
        return load_pronouncer().pronounce(words)
    except UserError as error:  # an installation without it
        logger.warning("no pronunciations can be predicted: %s", error)
        return {}


def parse(lines: Iterable[str], weight: float) -> dict[str, float]:
    """Parse phrases, one a line, each with its weight after a colon (`ANNE BRONTE :3`), or with `weight`.

    >>> parse(["Anne Bronte :3", "# a comment", "Keats"], 1.5)
    {'Anne Bronte': 3.0, 'Keats': 1.5}

    Empty lines and lines that begin with # are ignored.  UserError for a weight that is not a number.
    """
    phrases = {}
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        phrase, colon, number = text.rpartition(":")
        if not colon:
            phrase, number = text, str(weight)
        if not phrase.strip() or not re.fullmatch(r"\s*-?\d+(\.\d*)?\s*", number):
            raise UserError(f"hotword {text!r}: write PHRASE or PHRASE :WEIGHT, such as ANNE BRONTE :3")
        phrases[" ".join(phrase.split())] = float(number)
    return phrases


def read(path: Path, weight: float) -> dict[str, float]:
    """Read the phrases of a file; see `parse`."""
    return parse(read_lines(path, "hotwords"), weight)
