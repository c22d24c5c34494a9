"""Hotwords: phrases that a session expects are worth more, in any search that keeps several prefixes.

The phrases are an automaton over token ids (A. Aho, M. Corasick, "Efficient string matching", 1975; in speech recognition:
G. Pundak et al., "Deep context", 2018, section 2.2, and k2's `ContextGraph`).  Each unit of a phrase that has been heard
is worth `weight` nats at once, so that a phrase survives the beam before it is complete; if it then goes on otherwise, all of
that is taken back.  A phrase counts as whole words alone: ANN gets nothing from ANNA.  What may be taken back is credit, and the
search drops nothing for its sake: at 1.5 nats a unit JUSTINIAN has 13.5 of it, more than
`decode.search.prune`, and all that went on as JUSTINIAN'S was dropped while it lasted, with up to 24 words after it.

    view: node      the longest end of the prefix that begins a phrase
          kept      the worth of the phrases before that end
          bonus     kept + the worth of the node: of what is complete in it, or of having come so far, whichever is more
          credit    the worth of the node, but for the phrases that are over before its last word
"""

from __future__ import annotations

import itertools
import logging
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samba_asr.decoding.guide import Extensions, Tokens
from samba_asr.errors import UserError
from samba_asr.text.lexicon import Pronunciation
from samba_asr.text.lines import read_lines
from samba_asr.text.pronunciation import Guess, Speller, Spelt
from samba_asr.text.units import SPACE, Tokenizer

logger = logging.getLogger(__name__)

ROOT = 0
MOST_WAYS = 64  # ways to write a phrase, of pronunciations of its words; more are left out
MOST_WEIGHT = 20.0


class Hotwords:
    """Phrases as an automaton; made once a session, shared by its beams."""

    def __init__(self, tokenizer: Tokenizer, phrases: Mapping[str, float], guess: Guess | None = None):
        """phrases: each with the worth of one of its units, in nats; below 0 the phrase is avoided, at 0 it is as if not given.

        A phrase may be typed in any case and with any marks, and have its pronunciation behind it: `KUBERNETES = K UW B ...`.
        guess: pronounces words that a phone tokenizer's lexicon lacks (default: `samba_asr.models.pronouncer`).
        Phrases that this tokenizer cannot write are named in a warning and in `unusable`; the others work all the same.
        UserError for a weight that is out of bounds.
        """
        self.words: dict[str, list[list[int]]] = {}  # of the phrases, and their spellings
        self.texts: dict[str, float] = {}  # the phrases as the model writes them, and their weights
        self._children: list[dict[int, int]] = [{}]
        self._parent, self._depth = [ROOT], [0]
        self._partial = [0.0]  # by node: worth of having come this far
        self._whole: list[float | None] = [None]  # by node: worth of the phrase that is the path to it
        self._before = [0.0]  # by node: worth of the phrases in the path that are over before its last word
        self._complete = [0.0]  # by node: the same if its last word ends here
        pieces = tokenizer.pieces(range(tokenizer.vocab_size))
        self.begins = [piece.startswith(SPACE) for piece in pieces]
        self.pronounced: set[str] = set()  # of the words, those that came with a pronunciation
        self.unusable: dict[str, str] = {}  # phrases that are left out, and why
        for phrase, weight in phrases.items():
            if not abs(weight) <= MOST_WEIGHT:
                limits = f"from {-MOST_WEIGHT:g} to {MOST_WEIGHT:g} nats a unit"
                raise UserError(f"hotword {phrase!r}: weight {weight:g} must be {limits}")
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
        # Where units are characters the space is one by itself, and no text begins with it.
        self.start = self._children[ROOT].get(pieces.index(SPACE), ROOT) if SPACE in pieces else ROOT

    def _written(self, speller: Speller, phrases: Iterable[str]) -> dict[str, tuple[Spelt, ...]]:
        """What the model writes for each phrase; those that it cannot write are noted."""
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
        """For each node the longest proper end of its path that is a node, too; and what is complete in it."""
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
        """The best sum of phrases in the path to `node` that do not overlap."""
        ends, end = [], node
        while end != ROOT:
            if (worth := self._whole[end]) is not None:
                start = node
                for _ in range(self._depth[end]):
                    start = self._parent[start]
                ends.append(worth + self._complete[start])
            end = fail[end]
        return (
            max([*ends, self._before[node]]) if not ends or max(ends) > 0 else max(ends)
        )  # what is avoided is not overlooked

    def _done(self, node: int, token: int) -> float:
        """What is complete in the path to `node` when `token` comes next."""
        return self._complete[node] if self.begins[token] else self._before[node]

    def worth(self, node: int) -> float:
        return max(self._partial[node], self._before[node], key=abs)

    def credit(self, node: int) -> float:
        """The part of `worth` that goes if the prefix goes on otherwise."""
        return self.worth(node) - self._before[node]

    def worth_of(self, tokens: Sequence[int], words: Sequence[str] | None) -> float:
        """What the phrases in a whole text are worth; by its words, where it has some: what sounds like a phrase is none."""
        if words is not None:
            said = f" {' '.join(words)} "
            return sum(weight * said.count(f" {phrase} ") for phrase, weight in self.texts.items())
        node, worth = self.start, 0.0
        for token in tokens:
            node, left = self.move(node, token)
            worth += left
        worth += self.complete(node)
        return worth if abs(worth) > 1e-6 else 0.0  # what was added and taken back leaves a rounding error

    def complete(self, node: int) -> float:
        return self._complete[node]

    def move(self, node: int, token: int) -> tuple[int, float]:
        """The next node, and the worth of what is left behind on the way to it."""
        key = (node, token)
        if key not in self._moves:
            end = node
            while end != ROOT and token not in self._children[end]:
                end = self._fail[end]
            # What the end shares with the path counts as part of the end alone.
            self._moves[key] = self._children[end].get(token, ROOT), self._done(node, token) - self._done(end, token)
        return self._moves[key]


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    hotwords: Hotwords
    node: int
    kept: float
    bonus: float
    credit: float = 0.0
    label: int = 0

    @property
    def recombination(self) -> int:
        return 1 + self.node


class HotwordGuide:
    """As `samba_asr.decoding.guide.Guide`, for sessions with phrases of their own; those without are not guided."""

    def start(self, hotwords: Hotwords | None = None) -> Heard | None:
        if hotwords is None or not hotwords.words:
            return None
        node = hotwords.start
        return Heard(hotwords, node, 0.0, hotwords.worth(node), hotwords.credit(node))

    def extend(self, prefixes: Sequence[Heard], tokens: Tokens) -> Extensions:
        return Extensions.each([_next(prefix, token) for prefix, token in zip(prefixes, tokens, strict=True)])

    def finish(self, prefixes: Sequence[Heard]) -> list[Heard]:
        return [_finished(prefix) for prefix in prefixes]

    def words(self, prefix: Heard) -> None:
        return None


def _next(heard: Heard, token: int) -> Heard:
    node, left = heard.hotwords.move(heard.node, token)
    kept = heard.kept + left
    return Heard(heard.hotwords, node, kept, kept + heard.hotwords.worth(node), heard.hotwords.credit(node))


def _finished(heard: Heard) -> Heard:
    kept = heard.kept + heard.hotwords.complete(heard.node)
    return Heard(heard.hotwords, ROOT, kept, kept)


def guess_pronunciations(words: Sequence[str]) -> Mapping[str, Sequence[Pronunciation]]:
    """By the model in the box; nothing, and a warning, where there is none."""
    from samba_asr.models.pronouncer import load_pronouncer

    try:
        return load_pronouncer().pronounce(words)
    except UserError as error:  # an installation without it
        logger.warning("no pronunciations can be guessed: %s", error)
        return {}


def parse(lines: Iterable[str], weight: float) -> dict[str, float]:
    """Phrases, one a line, each with a weight of its own behind a colon (`ANNE BRONTE :3`), or else with `weight`.

    Empty lines, and those that begin with #, are none.  UserError for a weight that is not a number.
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
    """The phrases of a file, as `parse` has them."""
    return parse(read_lines(path, "hotwords"), weight)
