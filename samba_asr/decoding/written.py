"""The written form of segments: punctuation and case by a small network, numbers in digits.

    writer = Writer(load())                # samba_asr.models.punctuator_numpy
    for segment in writer.write(segment): print(segment.written.text)     # once `ahead` more words are known
    for segment in writer.finish(): ...

A writer belongs to one stream of segments, live or from a file.  Each segment is one block of the network, read in both
directions, after the state that the segments before it left.  With `ahead`, the next words are read too, and read again as part
of their own segment.  So the text depends only on the segments and on `ahead`: live equals offline.
"""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from samba_asr.decoding.transcript import Segment, Word, Written, WrittenWord
from samba_asr.text.written import numbers
from samba_asr.text.written.form import AHEAD, TEXTS, writes_english
from samba_asr.text.written.marks import CAPITAL, ENDS, LOWER, MARKS, spell
from samba_asr.text.written.vocabulary import Vocabulary, pause_classes

__all__ = ["AHEAD", "SURE", "TEXTS", "Writer", "writes_english"]

SURE = 3  # words after a word of a partial text that its mark needs
REFRESH = 4  # new words of a partial text after which the network reads it again: at 640 ms, about every second partial
_ALWAYS = frozenset(["I", "I'M", "I'LL", "I'VE", "I'D"])  # capitals that need no network
_OPEN = frozenset([",", ";", ":", "—"])  # marks that end no text


class Network(Protocol):
    """Network of punctuation and case: `samba_asr.models.punctuator.Punctuator`, or its twin in numpy."""

    vocabulary: Vocabulary
    listed: dict[str, str]
    bias: tuple[float, ...]

    def read(self, x: np.ndarray, state: Any, beyond: int = 0) -> tuple[np.ndarray, np.ndarray, Any]:
        """Return log-probabilities of cases (t, len(CASES)) and marks (t, len(MARKS)) of a segment's words, and the state.

        x: (t, f + 1) int64, t >= 1.  The rows of `Vocabulary.features`, then the class of the pause after the word.
        state: that which the words before left; None: there were none.
        beyond: words at the end that come again.  The state is that before them.
        """
        ...


@dataclass(frozen=True)
class _Context:
    """State that the segments so far leave to the next one."""

    state: Any
    starts: bool  # the next word begins a sentence


class Writer:
    """Writer of the written form of one stream of segments.

    digits: whether numbers are written in digits.  ahead: words after a segment that its written form waits for.
    """

    def __init__(self, punctuator: Network, *, digits: bool = True, ahead: int = 0):
        self.punctuator, self.digits, self.ahead = punctuator, digits, ahead
        self._context = _Context(None, True)
        self._waiting: deque[Segment] = deque()
        self._previewed: tuple[list[str], list[tuple[int, int]]] = ([], [])

    def write(self, segment: Segment) -> list[Segment]:
        """Take the next segment; return those that are now complete, in order, each with `written`."""
        self._waiting.append(segment)
        return self._release(self.ahead)

    def finish(self, segments: Iterable[Segment] = ()) -> list[Segment]:
        """End the text with the last segments; return them after those that still wait for words.

        How long the pause after the last word would have been is unknown, and nothing follows it: a comma becomes a full stop.
        """
        self._waiting.extend(segments)
        return self._release(0, last=True)

    def draft(self, segment: Segment) -> Segment:
        """Return a segment with the written form that it has if the text ends with it; nothing of the writer changes."""
        other = copy.copy(self)
        other._waiting = deque(self._waiting)
        return other.finish([segment])[-1]

    def preview(self, text: str, stable: str = "") -> tuple[str, str]:
        """Return the written form of the open segment's text so far, and of its beginning whose words will not change.

        The last words have no marks yet.  Marks and case of all words may still change.  The writer's context does not.
        The network reads the text again when `REFRESH` words are new, or another word has changed.
        """
        words = text.split()
        read, classes = self._previewed
        if not read or words[: len(read)] != read or not 0 <= len(words) - len(read) < REFRESH:
            read, (classes, _) = words, self._classes(words, [np.nan] * len(words), 0)
            self._previewed = read, classes
        classes = classes + [(CAPITAL if word.upper() in _ALWAYS else LOWER, 0) for word in words[len(read) :]]
        sure = len(words) - SURE
        classes = [(case, mark if i < sure else 0) for i, (case, mark) in enumerate(classes)]
        pieces, kept = self._pieces(words, classes), len(stable.split())
        stable_pieces = [piece for piece in pieces if piece[1] <= kept]
        while stable_pieces and (stable_pieces[-1][2][-1].isdigit() or stable_pieces[-1][1] == kept < len(words)):
            stable_pieces.pop()  # a number may go on
        return _text(pieces), _text(stable_pieces)

    def _release(self, ahead: int, last: bool = False) -> list[Segment]:
        done = []
        while self._waiting and sum(len(s.words) for s in list(self._waiting)[1:]) >= ahead:
            segment = self._waiting.popleft()
            self._previewed = [], []
            upcoming = [word for other in self._waiting for word in other.words][: self.ahead]
            written = self._written(segment, upcoming, last and not self._waiting)
            done.append(replace(segment, written=written))
        return done

    def _written(self, segment: Segment, upcoming: Sequence[Word], last: bool) -> Written:
        words = [*segment.words, *upcoming]
        pauses = [b.start - a.end for a, b in itertools.pairwise(words)]
        if words and not upcoming and not last:
            pauses.append(max(segment.until - words[-1].end, 0.0))
        elif words:
            pauses.append(np.nan)
        classes, self._context = self._classes([w.text for w in words], pauses, len(upcoming))
        classes = classes[: len(segment.words)]
        if last and classes and MARKS[classes[-1][1]] in _OPEN:
            classes[-1] = (classes[-1][0], MARKS.index("."))
        if last:
            self._context = replace(self._context, starts=True)
        pieces = self._pieces([w.text for w in segment.words], classes)
        return Written(tuple(_joined(text, segment.words[start:end]) for start, end, text in pieces))

    def _classes(
        self, words: Sequence[str], pauses: Sequence[float], beyond: int
    ) -> tuple[list[tuple[int, int]], _Context]:
        """Return (case, mark) of each word, and the context after all but the last `beyond` words."""
        if not words:
            return [], self._context
        net, t = self.punctuator, len(words)
        features = net.vocabulary.features(word.lower() for word in words)
        x = np.concatenate([features, pause_classes(pauses)[:, None]], 1)
        cases, marks, state = net.read(x, self._context.state, beyond)
        marks = marks + np.array(net.bias, dtype=marks.dtype)
        chosen = zip(cases.argmax(1).tolist(), marks.argmax(1).tolist(), strict=True)
        classes, starts = [], self._context.starts
        for i, (case, mark) in enumerate(chosen):
            if i == t - beyond:
                break
            classes.append((CAPITAL if starts and case == LOWER else case, mark))
            starts = mark in ENDS
        return classes, _Context(state, starts)

    def _pieces(self, words: Sequence[str], classes: Sequence[tuple[int, int]]) -> list[tuple[int, int, str]]:
        """Return (start, end, text) of each written word: the spoken words that it stands for, and its text."""
        net = self.punctuator
        apart = [i > 0 and classes[i - 1][1] > 0 for i in range(len(words))]
        lower = [word.lower() for word in words]
        found = numbers.digits(lower, apart) if self.digits else []
        pieces, i = [], 0
        for number in [*found, None]:
            until = number.start if number else len(words)
            for k in range(i, until):
                pieces.append((k, k + 1, spell(lower[k], *classes[k], net.listed)))
            if number:
                i = number.end
                mark = MARKS[classes[i - 1][1]]
                pieces.append((number.start, i, number.text + (f" {mark}" if mark == "—" else mark)))
        return pieces


def _text(pieces: Iterable[tuple[int, int, str]]) -> str:
    return " ".join(text for _, _, text in pieces)


def _joined(text: str, words: Sequence[Word]) -> WrittenWord:
    """Return a written word with the times of its spoken words, and their lowest confidence."""
    return WrittenWord(text, words[0].start, words[-1].end, min(word.confidence for word in words), tuple(words))
