"""What comes out of a search: words with their times, and segments of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from samba_asr.decoding.align import Span
from samba_asr.text.units import SPACE, Tokenizer


@dataclass(frozen=True)
class Word:
    """start, end: seconds from the beginning of the audio, by the alignment of the word's tokens to frames of 40 ms.

    confidence: the geometric mean of the probabilities that the CTC head gives the word's tokens where they lie.
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Segment:
    """What was said between two pauses.  start, end: of its words, in seconds; of the stretch of audio if it has none."""

    text: str
    start: float
    end: float
    words: tuple[Word, ...]


def words_of(
    tokens: Sequence[int],
    spans: Sequence[Span],
    tokenizer: Tokenizer,
    frame: float,
    read_as: Sequence[str] | None = None,
    begin: int = 0,
) -> tuple[Word, ...]:
    """The words that tokens spell; a piece that begins with U+2581 begins a word.

    frame: seconds of an encoder frame.  begin: the frame from which `spans` count.  read_as: the words by a lexicon,
    where the pieces do not spell them.
    """
    words: list[list[tuple[str, Span]]] = []
    for piece, span in zip(tokenizer.pieces(tokens), spans, strict=True):
        text = piece.removeprefix(SPACE)
        if piece.startswith(SPACE) or not words:
            words.append([])
        if text:  # a lone space takes no time: the word begins with what comes after it
            words[-1].append((text, span))
    words = [pieces for pieces in words if pieces]
    texts = ["".join(text for text, _ in pieces) for pieces in words] if read_as is None else read_as
    return tuple(
        _word(text, [span for _, span in pieces], frame, begin) for text, pieces in zip(texts, words, strict=True)
    )


def _word(text: str, spans: Sequence[Span], frame: float, begin: int) -> Word:
    start, end = round((begin + spans[0].first) * frame, 3), round((begin + spans[-1].end) * frame, 3)
    sure = math.exp(sum(s.log_prob for s in spans) / len(spans))
    return Word(text, start, end, round(sure, 4))
