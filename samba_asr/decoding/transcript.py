"""Words with times and confidences, and segments of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from samba_asr.decoding.align import Span
from samba_asr.decoding.confidence import Evidence, raw
from samba_asr.decoding.lattice import Lattice
from samba_asr.decoding.posteriors import Alternative, alternatives, posteriors, support
from samba_asr.text.units import SPACE, Tokenizer

Mark = TypeVar("Mark")


MOST = 8  # alternatives that a word keeps


class Said(NamedTuple):
    """A word of the best text, in the frames first .. end - 1 of its segment."""

    text: str
    first: int
    end: int
    evidence: Evidence


class Graph(Protocol):
    """Judge of all words of a lattice (`samba_asr.decoding.graph`)."""

    def judge(self, lattice: Lattice, shares: np.ndarray, said: Sequence[Said]) -> tuple[list[float], np.ndarray]:
        """Return the confidences of the words that were `said`, and the probability (a,) that an arc's word is right.

        shares: `posteriors` (k, a).
        """
        ...


@dataclass(frozen=True)
class Word:
    """A recognized word.

    start, end: seconds from the beginning of the audio, by the alignment of the word's tokens to encoder frames.
    confidence: 0 to 1.  Probability that the word is right, if the model is calibrated (`samba_asr.decoding.confidence`).
    """

    text: str
    start: float
    end: float
    confidence: float
    evidence: Evidence = field(repr=False, compare=False)
    alternatives: tuple[Alternative, ...] = field(
        default=(), repr=False, compare=False
    )  # what else was likely, best first

    def entry(self, alternatives: int = 0) -> dict[str, Any]:
        """Return the JSON object of the word, the same in files and messages, with at most so many alternatives (0: none)."""
        found: dict[str, Any] = {"word": self.text, "start": self.start, "end": self.end, "confidence": self.confidence}
        if alternatives and self.alternatives:
            found["alternatives"] = [other.entry() for other in self.alternatives[:alternatives]]
        return found


@dataclass(frozen=True)
class WrittenWord:
    """A word as people write it: with its case and the mark after it, or a number in digits.

    start, end: seconds, from the first of its spoken words to the last.  confidence: the lowest of these.
    """

    text: str
    start: float
    end: float
    confidence: float
    spoken: tuple[Word, ...]

    def entry(self, alternatives: int = 0) -> dict[str, Any]:
        """Return the JSON object of the word, with its spoken words; with those of a single one's alternatives."""
        about = {"word": self.text, "start": self.start, "end": self.end, "confidence": self.confidence}
        found = {**about, "spoken": [word.text for word in self.spoken]}
        if alternatives and len(self.spoken) == 1 and (others := self.spoken[0].alternatives):
            write = str.capitalize if self.text[:1].isupper() else str.lower
            found["alternatives"] = [{**one.entry(), "text": write(one.text)} for one in others[:alternatives]]
        return found


@dataclass(frozen=True)
class Written:
    """The written form of a segment (samba_asr.decoding.written)."""

    words: tuple[WrittenWord, ...]

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True)
class Segment:
    """Text between two pauses.

    text, words: the spoken form, which is what the model recognized and what is scored.
    start, end: seconds.  Start of the first word and end of the last.
    until: seconds.  End of the audio that this and earlier segments cover; the next segment begins there.
    written: the written form; None if it was not asked for.
    lattice: all words that were considered, its times in seconds; None where the search keeps none (decode.search.lattice).
    """

    text: str
    start: float
    end: float
    words: tuple[Word, ...]
    until: float
    written: Written | None = None
    lattice: Lattice | None = field(default=None, repr=False, compare=False)

    @property
    def readable(self) -> str:
        """The written form, if it was asked for; else the spoken form."""
        return self.text if self.written is None else self.written.text


def words_of(
    tokens: Sequence[int],
    spans: Sequence[Span],
    tokenizer: Tokenizer,
    frame: float,
    read_as: Sequence[str] | None = None,
    *,
    begin: float = 0,
    elapsed: Callable[[int], float] = lambda frame: frame,
    agreed: Sequence[float] | None = None,
    sure: Callable[[Evidence], float] = raw,
    lattice: Lattice | None = None,
    graph: Graph | None = None,
) -> tuple[Word, ...]:
    """Return the words of `tokens`, which lie at `spans`.

    frame: seconds of an encoder frame.  begin: frame from which `spans` count.  elapsed: frames from there to the start of a
    frame: more than its number after missing audio.  read_as: words by a lexicon, where the pieces do not spell them.
    agreed: of each word, see `Evidence`.  sure: maps evidence to confidence.
    lattice: of the same frames, for more evidence and for alternatives.  graph: judges its words in place of `sure`.
    """
    words = grouped(tokens, spans, tokenizer, read_as)
    shares = [1.0] * len(words) if agreed is None else agreed
    paths = None if lattice is None else posteriors(lattice)
    said = []
    for (text, some), share in zip(words, shares, strict=True):
        first, end, scores = some[0].first, some[-1].end, [s.log_prob for s in some]
        evidence = Evidence(
            sum(scores) / len(scores), share, least=min(scores), frames=math.log(1 + end - first), units=len(scores)
        )
        if lattice is not None and paths is not None:
            evidence = evidence._replace(**support(lattice, paths, text, first, end)._asdict())
        said.append(Said(text, first, end, evidence))
    confidences, arcs = [sure(word.evidence) for word in said], None
    if graph is not None and lattice is not None and paths is not None and said:
        confidences, arcs = graph.judge(lattice, paths, said)
    found = []
    for word, confidence in zip(said, confidences, strict=True):
        start = round((begin + elapsed(word.first)) * frame, 3)
        end = round((begin + elapsed(word.end - 1) + 1) * frame, 3)
        others: tuple[Alternative, ...] = ()
        if lattice is not None and paths is not None:
            others = alternatives(lattice, paths[1], word.text, word.first, word.end, confidence, MOST, arcs)
        found.append(Word(word.text, start, end, round(confidence, 4), word.evidence, others))
    return tuple(found)


def words_at(texts: Sequence[str], spans: Sequence[Sequence[Span]], frame: float) -> tuple[Word, ...]:
    """Return words with known texts, each from the spans of its tokens, at least one."""
    found = []
    for text, some in zip(texts, spans, strict=True):
        evidence = Evidence(sum(s.log_prob for s in some) / len(some), 1.0)
        start, end = round(some[0].first * frame, 3), round(some[-1].end * frame, 3)
        found.append(Word(text, start, end, round(raw(evidence), 4), evidence))
    return tuple(found)


def grouped(
    tokens: Sequence[int], marks: Sequence[Mark], tokenizer: Tokenizer, read_as: Sequence[str] | None = None
) -> list[tuple[str, list[Mark]]]:
    """Group tokens into words, each with the `marks` of its tokens; a piece that begins with U+2581 begins a word."""
    words: list[list[tuple[str, Mark]]] = []
    for piece, mark in zip(tokenizer.pieces(tokens), marks, strict=True):
        text = piece.removeprefix(SPACE)
        if piece.startswith(SPACE) or not words:
            words.append([])
        if text:  # a lone space has no duration: the word begins with the next piece
            words[-1].append((text, mark))
    words = [pieces for pieces in words if pieces]
    texts = ["".join(text for text, _ in pieces) for pieces in words] if read_as is None else read_as
    if len(words) == len(texts) + 1:
        words.pop()  # the audio ended within a word of the lexicon, so that word is incomplete
    return [(text, [mark for _, mark in pieces]) for text, pieces in zip(texts, words, strict=True)]
