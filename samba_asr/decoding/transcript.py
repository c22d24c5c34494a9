"""Words with times and confidences, and segments of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from samba_asr.decoding.align import Span
from samba_asr.decoding.confidence import Evidence, raw
from samba_asr.text.units import SPACE, Tokenizer

Mark = TypeVar("Mark")


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

    def entry(self) -> dict[str, str | float]:
        """Return the JSON object of the word, the same in files and messages."""
        return {"word": self.text, "start": self.start, "end": self.end, "confidence": self.confidence}


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

    def entry(self) -> dict[str, Any]:
        """Return the JSON object of the word, with its spoken words."""
        about = {"word": self.text, "start": self.start, "end": self.end, "confidence": self.confidence}
        return {**about, "spoken": [word.text for word in self.spoken]}


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
    """

    text: str
    start: float
    end: float
    words: tuple[Word, ...]
    until: float
    written: Written | None = None

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
) -> tuple[Word, ...]:
    """Return the words of `tokens`, which lie at `spans`.

    frame: seconds of an encoder frame.  begin: frame from which `spans` count.  elapsed: frames from there to the start of a
    frame: more than its number after missing audio.  read_as: words by a lexicon, where the pieces do not spell them.
    agreed: of each word, see `Evidence`.  sure: maps evidence to confidence.
    """
    words = grouped(tokens, spans, tokenizer, read_as)
    shares = [1.0] * len(words) if agreed is None else agreed
    found = []
    for (text, some), share in zip(words, shares, strict=True):
        evidence = Evidence(sum(s.log_prob for s in some) / len(some), share)
        first, last = elapsed(some[0].first), elapsed(some[-1].end - 1)
        start, end = round((begin + first) * frame, 3), round((begin + last + 1) * frame, 3)
        found.append(Word(text, start, end, round(sure(evidence), 4), evidence))
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
