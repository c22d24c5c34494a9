"""Scores of the written form: F1 of each mark and the share of words in the right case, on texts and on recognized speech.

The words of a text are cut into segments of a random length, as speech is.  Of recognized words, those that the alignment pairs
with a word of the reference are compared, errors included; a mark at a word that only one side has counts as missed or as wrong.
The baseline writes a full stop at the end of each segment, and a capital after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from samba_asr.decoding.confidence import Evidence
from samba_asr.decoding.transcript import Segment, Word
from samba_asr.decoding.written import AHEAD, Writer
from samba_asr.metrics.punctuation import MarkCounts, add, interval
from samba_asr.metrics.wer import score
from samba_asr.text.written.marks import CAPITAL, LOWER, MARKS, Run, labelled, read

NAMES = {".": "full stop", ",": "comma", "?": "question mark"}
GAP = 0.6  # seconds, about a pause at which a corpus is cut into clips
_SURE = Evidence(0.0, 1.0)


@dataclass(frozen=True)
class Labels:
    """Words with their cases and marks."""

    words: tuple[str, ...]
    cases: tuple[int, ...]
    marks: tuple[int, ...]

    @classmethod
    def of(cls, runs: Iterable[Run]) -> Labels:
        runs = list(runs)
        return cls(
            tuple(word for run in runs for word in run.words),
            tuple(case for run in runs for case in run.cases),
            tuple(mark for run in runs for mark in run.marks),
        )


def segments_of(words: Sequence[str], shortest: int, longest: int, rng: np.random.Generator) -> Iterator[Segment]:
    """Yield segments of `shortest` to `longest` words without times."""
    at = 0
    while at < len(words):
        n = int(rng.integers(shortest, longest + 1))
        some = tuple(Word(word, math.nan, math.nan, 1.0, _SURE) for word in words[at : at + n])
        yield Segment(" ".join(words[at : at + n]), math.nan, math.nan, some, math.nan)
        at += n


def write(writer: Writer, segments: Iterable[Segment]) -> Labels:
    """Write segments, without digits; return the words with their cases and marks."""
    assert not writer.digits, "each written word must be one spoken word"
    done = [ready for segment in segments for ready in writer.write(segment)] + writer.finish()
    pieces = [word for segment in done if segment.written for word in segment.written.words]
    found = [read(piece.text) for piece in pieces]
    return Labels(
        tuple(piece.spoken[0].text.lower() for piece in pieces),
        tuple(case for case, _ in found),
        tuple(mark for _, mark in found),
    )


def baseline(segments: Iterable[Segment]) -> Labels:
    """Write a full stop at the end of each segment, and a capital after it."""
    words, cases, marks = [], [], []
    for segment in segments:
        n = len(segment.words)
        words += [word.text.lower() for word in segment.words]
        cases += [CAPITAL, *[LOWER] * (n - 1)][:n]
        marks += [*[0] * (n - 1), MARKS.index(".")][-n:] if n else []
    return Labels(tuple(words), tuple(cases), tuple(marks))


def compare(reference: Labels, hypothesis: Labels) -> MarkCounts:
    """Count over aligned words."""
    if reference.words == hypothesis.words:
        pairs = [(i, i) for i in range(len(reference.words))]
    else:
        (aligned,) = score({"": " ".join(reference.words)}, {"": " ".join(hypothesis.words)}).utterances
        pairs, i, k = [], 0, 0
        for ref, hyp in aligned.pairs:
            pairs.append((None if ref is None else i, None if hyp is None else k))
            i, k = i + (ref is not None), k + (hyp is not None)
    both = [(i, k) for i, k in pairs if i is not None and k is not None and reference.words[i] == hypothesis.words[k]]
    return MarkCounts.of(
        [0 if i is None else reference.marks[i] for i, _ in pairs],
        [0 if k is None else hypothesis.marks[k] for _, k in pairs],
        [reference.cases[i] for i, _ in both],
        [hypothesis.cases[k] for _, k in both],
        classes=len(MARKS),
    )


def report(name: str, counts: Sequence[MarkCounts]) -> str:
    """Return a line: F1 (precision, recall) of each mark and case accuracy, with 95 % intervals over texts."""
    total = add(counts)
    parts = []
    for mark, title in NAMES.items():
        m = MARKS.index(mark)
        low, high = interval(counts, lambda some, m=m: some.f1(m))
        parts.append(
            f"{title} {total.f1(m):.3f} [{low:.3f}, {high:.3f}] (P {total.precision(m):.3f}, R {total.recall(m):.3f}, "
            f"{int(total.wanted[m])})"
        )
    low, high = interval(counts, lambda some: some.case_accuracy)
    return f"{name}: {'; '.join(parts)}; case {total.case_accuracy:.4f} [{low:.4f}, {high:.4f}], {total.cases} words"


def moved(segment: Segment, seconds: float) -> Segment:
    """Return a segment that begins `seconds` later."""
    words = tuple(replace(word, start=word.start + seconds, end=word.end + seconds) for word in segment.words)
    start, end, until = (x + seconds for x in (segment.start, segment.end, segment.until))
    return replace(segment, start=start, end=end, until=until, words=words)


def score_texts(
    writer: Callable[[int], Writer], texts: Sequence[Sequence[str]], lengths: tuple[int, int]
) -> Iterator[str]:
    """Yield lines of scores of printed texts, each a list of paragraphs, in segments of random lengths without times.

    writer: makes a writer for a number of words ahead.
    """
    found: dict[str, list[MarkCounts]] = {}
    for n, paragraphs in enumerate(texts):
        reference = Labels.of(labelled(paragraphs))
        cut = list(segments_of(reference.words, *lengths, np.random.default_rng(n)))
        found.setdefault("full stop at each segment", []).append(compare(reference, baseline(cut)))
        for ahead in (0, AHEAD):
            found.setdefault(f"{ahead} words ahead", []).append(compare(reference, write(writer(ahead), cut)))
    yield from (report(name, counts) for name, counts in found.items())


def score_speech(
    writer: Callable[[int], Writer], clips: Sequence[tuple[str, Sequence[Segment], float]], together: int = 10
) -> Iterator[str]:
    """Yield lines of scores of recognized speech.

    clips: of each clip, its printed text, its recognized segments and its seconds, in the order in which they were spoken.
    together: clips that are joined to one stream, with `GAP` seconds between them, as they were cut from one recording.
    """
    found: dict[str, list[MarkCounts]] = {}
    for n in range(0, len(clips), together):
        some = clips[n : n + together]
        reference = Labels.of(labelled([" ".join(text for text, _, _ in some)]))
        segments, at = [], 0.0
        for _, parts, seconds in some:
            parts = [moved(part, at) for part in parts]
            at += seconds + GAP
            segments += [*parts[:-1], *(replace(part, until=at) for part in parts[-1:])]
        timeless = [
            replace(s, until=math.nan, words=tuple(replace(w, start=math.nan, end=math.nan) for w in s.words))
            for s in segments
        ]
        spoken = list(segments_of(reference.words, 8, 24, np.random.default_rng(n)))
        found.setdefault("reference words, without pauses", []).append(compare(reference, write(writer(0), spoken)))
        found.setdefault("full stop at each segment", []).append(compare(reference, baseline(segments)))
        found.setdefault("recognized words, without pauses", []).append(compare(reference, write(writer(0), timeless)))
        for ahead in (0, AHEAD):
            counts = compare(reference, write(writer(ahead), segments))
            found.setdefault(f"recognized words, {ahead} words ahead", []).append(counts)
    yield from (report(name, counts) for name, counts in found.items())
