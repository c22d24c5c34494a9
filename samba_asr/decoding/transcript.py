"""What comes out of a search: words with their times, and segments of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from samba_asr.decoding.align import Span
from samba_asr.decoding.confidence import Evidence, raw
from samba_asr.text.units import SPACE, Tokenizer

Mark = TypeVar("Mark")


@dataclass(frozen=True)
class Word:
    """start, end: seconds from the beginning of the audio, by the alignment of the word's tokens to encoder frames.

    confidence: 0 to 1; where the model is calibrated, how probably the word is right (`samba_asr.decoding.confidence`).
    """

    text: str
    start: float
    end: float
    confidence: float
    evidence: Evidence = field(repr=False, compare=False)

    def entry(self) -> dict[str, str | float]:
        """As JSON has it, in files and messages alike."""
        return {"word": self.text, "start": self.start, "end": self.end, "confidence": self.confidence}


@dataclass(frozen=True)
class Segment:
    """What was said between two pauses.

    start, end: of its words, in seconds.  until: all audio before this is told, in this segment or one before; the next begins.
    """

    text: str
    start: float
    end: float
    words: tuple[Word, ...]
    until: float


def words_of(
    tokens: Sequence[int],
    spans: Sequence[Span],
    tokenizer: Tokenizer,
    frame: float,
    read_as: Sequence[str] | None = None,
    *,
    begin: float = 0,
    agreed: Sequence[float] | None = None,
    sure: Callable[[Evidence], float] = raw,
) -> tuple[Word, ...]:
    """The words that tokens spell.

    frame: seconds of an encoder frame.  begin: the frame from which `spans` count.  read_as: the words by a lexicon,
    where the pieces do not spell them.  agreed: of each word, see `Evidence`.  sure: makes confidence of evidence.
    """
    words = grouped(tokens, spans, tokenizer, read_as)
    shares = [1.0] * len(words) if agreed is None else agreed
    found = []
    for (text, some), share in zip(words, shares, strict=True):
        evidence = Evidence(sum(s.log_prob for s in some) / len(some), share)
        start, end = round((begin + some[0].first) * frame, 3), round((begin + some[-1].end) * frame, 3)
        found.append(Word(text, start, end, round(sure(evidence), 4), evidence))
    return tuple(found)


def words_at(texts: Sequence[str], spans: Sequence[Sequence[Span]], frame: float) -> tuple[Word, ...]:
    """Words whose texts are known, each with the spans of its tokens, at least one."""
    found = []
    for text, some in zip(texts, spans, strict=True):
        evidence = Evidence(sum(s.log_prob for s in some) / len(some), 1.0)
        start, end = round(some[0].first * frame, 3), round(some[-1].end * frame, 3)
        found.append(Word(text, start, end, round(raw(evidence), 4), evidence))
    return tuple(found)


def grouped(
    tokens: Sequence[int], marks: Sequence[Mark], tokenizer: Tokenizer, read_as: Sequence[str] | None = None
) -> list[tuple[str, list[Mark]]]:
    """Words, and what `marks` says of the tokens of each; a piece that begins with U+2581 begins a word."""
    words: list[list[tuple[str, Mark]]] = []
    for piece, mark in zip(tokenizer.pieces(tokens), marks, strict=True):
        text = piece.removeprefix(SPACE)
        if piece.startswith(SPACE) or not words:
            words.append([])
        if text:  # a lone space takes no time: the word begins with what comes after it
            words[-1].append((text, mark))
    words = [pieces for pieces in words if pieces]
    texts = ["".join(text for text, _ in pieces) for pieces in words] if read_as is None else read_as
    if len(words) == len(texts) + 1:
        words.pop()  # the audio ended amid a word of the lexicon: it is none
    return [(text, [mark for _, mark in pieces]) for text, pieces in zip(texts, words, strict=True)]
