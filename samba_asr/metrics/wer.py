"""Word (or character) error rate as in Kaldi, with an alignment of every utterance and a bootstrap interval.

Texts are split at white space and compared without changes: normalize them before (`samba_asr.text.normalize`) if needed.
Alignments are those of jiwer (fewest edits, all edits cost 1).  Among several with the fewest edits, Kaldi may choose another:
the number of errors is equal, but insertions, deletions and substitutions may differ a little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from samba_asr.errors import UserError, missing_extra

Unit = Literal["word", "character"]


@dataclass(frozen=True)
class Aligned:
    """Alignment of one utterance: `pairs` of (reference unit, hypothesis unit), None for an insertion or deletion."""

    id: str
    pairs: tuple[tuple[str | None, str | None], ...]
    speaker: str = ""
    missing: bool = False  # no hypothesis was given; the whole reference counts as deleted

    @property
    def reference(self) -> tuple[str, ...]:
        return tuple(ref for ref, _ in self.pairs if ref is not None)

    @property
    def hypothesis(self) -> tuple[str, ...]:
        return tuple(hyp for _, hyp in self.pairs if hyp is not None)

    @cached_property
    def counts(self) -> ErrorCounts:
        ins = sum(ref is None for ref, _ in self.pairs)
        dels = sum(hyp is None for _, hyp in self.pairs)
        sub = sum(ref != hyp for ref, hyp in self.pairs) - ins - dels
        return ErrorCounts(len(self.pairs) - ins, ins, dels, sub, 1, int(ins + dels + sub > 0))


@dataclass(frozen=True)
class ErrorCounts:
    """ErrorCounts of reference units and errors.  `total` adds those of several utterances."""

    words: int = 0  # units of the reference
    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    sentences: int = 0
    wrong_sentences: int = 0

    @property
    def errors(self) -> int:
        return self.insertions + self.deletions + self.substitutions

    @property
    def wer(self) -> float:
        """Errors per reference word, 0.05 for 5 %.  It may exceed 1, and is inf for insertions with an empty reference."""
        return _ratio(self.errors, self.words)

    @property
    def ser(self) -> float:
        """Share of sentences with an error."""
        return _ratio(self.wrong_sentences, self.sentences)


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    rows = [(c.words, c.insertions, c.deletions, c.substitutions, c.sentences, c.wrong_sentences) for c in counts]
    return ErrorCounts(*map(sum, zip(*rows, strict=True))) if rows else ErrorCounts()


@dataclass(frozen=True)
class WerReport:
    """Score of a test set, with utterances in the order of the references."""

    utterances: tuple[Aligned, ...]
    unknown: tuple[str, ...] = ()  # ids of hypotheses without a reference; they are not scored
    unit: Unit = "word"

    @cached_property
    def counts(self) -> ErrorCounts:
        return total(u.counts for u in self.utterances)

    @property
    def wer(self) -> float:
        return self.counts.wer

    @property
    def ser(self) -> float:
        return self.counts.ser

    @property
    def missing(self) -> tuple[str, ...]:
        """Ids of references without a hypothesis."""
        return tuple(u.id for u in self.utterances if u.missing)

    def by_speaker(self) -> dict[str, ErrorCounts]:
        """Return the counts of each speaker, by name; {} if `score` was given no speakers."""
        names = sorted({u.speaker for u in self.utterances if u.speaker})
        return {name: total(u.counts for u in self.utterances if u.speaker == name) for name in names}

    def kaldi_lines(self) -> list[str]:
        """Return the lines of Kaldi's compute-wer: %WER (%CER for characters), %SER and the number of sentences."""
        c = self.counts
        label = "%WER" if self.unit == "word" else "%CER"
        edits = f"{c.insertions} ins, {c.deletions} del, {c.substitutions} sub"
        return [
            f"{label} {100 * c.wer:.2f} [ {c.errors} / {c.words}, {edits} ]",
            f"%SER {100 * c.ser:.2f} [ {c.wrong_sentences} / {c.sentences} ]",
            f"Scored {c.sentences} sentences, {len(self.missing)} not present in hyp.",
        ]


def score(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    *,
    speakers: Mapping[str, str] | None = None,
    unit: Unit = "word",
) -> WerReport:
    """Score the hypothesis of each reference, by id.

    A missing hypothesis counts as empty.  The report lists such ids, and hypotheses without a reference, which are ignored.
    A reference may be empty: its hypothesis counts as insertions.  With unit "character", spaces between words count too.
    speakers: id -> name, for counts and intervals by speaker.
    """
    if not references:
        raise UserError("nothing to score, there are no references: give at least one")
    speakers = speakers or {}
    pairs = _align([references[i] for i in references], [hypotheses.get(i, "") for i in references], unit)
    utterances = (
        Aligned(i, p, speakers.get(i, ""), i not in hypotheses) for i, p in zip(references, pairs, strict=True)
    )
    return WerReport(tuple(utterances), tuple(i for i in hypotheses if i not in references), unit)


def bootstrap(
    report: WerReport, samples: int = 1000, seed: int = 0, *, by_speaker: bool = False, level: float = 0.95
) -> tuple[float, float]:
    """Return the bootstrap interval (low, high) of the error rate: `level` of `samples` resampled test sets lie in it.

    Rates are fractions.  Utterances are drawn with replacement; with `by_speaker`, whole speakers.  That interval is wider,
    and right if errors depend on the speaker.  M. Bisani and H. Ney, "Bootstrap estimates for confidence intervals in ASR
    performance evaluation", 2004, but with quantiles instead of the mean and 1.96 standard deviations.
    """
    (rates,) = _redrawn([report], samples, seed, by_speaker)
    return _interval(rates, level)


class WerDifference(NamedTuple):
    """Error rate of a report minus that of another, as fractions: lower is better.

    low, high: bootstrap interval.  better: share of resampled test sets in which the report's rate is lower.
    """

    difference: float
    low: float
    high: float
    better: float


def compare(
    report: WerReport,
    other: WerReport,
    samples: int = 1000,
    seed: int = 0,
    *,
    by_speaker: bool = False,
    level: float = 0.95,
) -> WerDifference:
    """Compare `report` with `other`, of the same references, on the same resampled test sets.

    The difficulty of a set cancels, so systems can be distinguished although their intervals overlap (Bisani and Ney, as
    above, section 4).  UserError if the references differ.
    """
    if [(u.id, u.reference) for u in report.utterances] != [(u.id, u.reference) for u in other.utterances]:
        raise UserError("the references of the two systems differ: score both on the same test set")
    ours, theirs = _redrawn([report, other], samples, seed, by_speaker)
    with np.errstate(invalid="ignore"):  # inf - inf
        low, high = _interval(ours - theirs, level)
    return WerDifference(report.wer - other.wer, low, high, float((ours < theirs).mean()))


def _redrawn(reports: Sequence[WerReport], samples: int, seed: int, by_speaker: bool) -> np.ndarray:
    """Return (n, samples) error rates of n reports on the same resampled test sets."""
    if samples < 1:
        raise UserError(f"bootstrap needs samples >= 1, got samples={samples}")
    counts = [list(r.by_speaker().values()) if by_speaker else [u.counts for u in r.utterances] for r in reports]
    size = len(counts[0])
    if not size:
        raise UserError("a bootstrap by speaker needs speakers: give the speakers of the utterances to `score`")
    errors, words = (np.array([[getattr(c, name) for c in of] for of in counts]) for name in ("errors", "words"))
    generator = np.random.default_rng(seed)
    rates = np.empty((len(reports), samples))
    block = max(1, 2**20 // size)  # resampled sets at a time: bounded memory for any corpus
    for at in range(0, samples, block):
        drawn = generator.integers(0, size, (min(block, samples - at), size))
        e, w = errors[:, drawn].sum(axis=-1), words[:, drawn].sum(axis=-1)
        rates[:, at : at + block] = np.where(w > 0, e / np.maximum(w, 1), np.where(e > 0, np.inf, 0.0))
    return rates


def _interval(rates: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise UserError(f"bootstrap needs 0 < level < 1, got level={level}")
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return float(low), float(high)


def _align(references: list[str], hypotheses: list[str], unit: Unit) -> list[tuple[tuple[str | None, str | None], ...]]:
    try:
        import jiwer
    except ImportError as error:
        raise missing_extra("jiwer", "score") from error
    process = {"word": jiwer.process_words, "character": jiwer.process_characters}.get(unit)
    if process is None:
        raise UserError(f"unknown unit {unit!r}: use 'word' or 'character'")
    # Versions of jiwer treat empty texts differently, so they are aligned here.
    texts = [(" ".join(r.split()), " ".join(h.split())) for r, h in zip(references, hypotheses, strict=True)]
    full = [(r, h) for r, h in texts if r and h]
    found = iter(())
    if full:
        output = process([r for r, _ in full], [h for _, h in full])
        found = zip(output.references, output.hypotheses, output.alignments, strict=True)
    pairs = []
    for ref, hyp in texts:
        if ref and hyp:
            pairs.append(_pairs(*next(found)))
        else:
            r, h = (text.split() if unit == "word" else list(text) for text in (ref, hyp))
            pairs.append((*((x, None) for x in r), *((None, x) for x in h)))
    return pairs


def _pairs(ref: list[str], hyp: list[str], chunks: list) -> tuple[tuple[str | None, str | None], ...]:
    """Convert jiwer's chunks (runs of one edit) to pairs of units."""
    pairs: list[tuple[str | None, str | None]] = []
    for chunk in chunks:
        r = ref[chunk.ref_start_idx : chunk.ref_end_idx]
        h = hyp[chunk.hyp_start_idx : chunk.hyp_end_idx]
        n = max(len(r), len(h))
        pairs += zip(r or [None] * n, h or [None] * n, strict=True)
    return tuple(pairs)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("inf") if part else 0.0
