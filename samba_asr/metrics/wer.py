"""Word (or character) error rate as Kaldi reports it, with an alignment of every utterance and a bootstrap interval.

Texts are compared as they are, split at white space: normalise before (`samba_asr.text.normalize`) or not at all.
The alignments are jiwer's (fewest edits, all edits cost 1).  Where several have as few, Kaldi may split the same number
of errors a little differently into insertions, deletions and substitutions.
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
    """One utterance: `pairs` of (reference unit, hypothesis unit), None where the other was inserted or deleted."""

    id: str
    pairs: tuple[tuple[str | None, str | None], ...]
    speaker: str = ""
    missing: bool = False  # there was no hypothesis; all of the reference counts as deleted

    @property
    def reference(self) -> tuple[str, ...]:
        return tuple(ref for ref, _ in self.pairs if ref is not None)

    @property
    def hypothesis(self) -> tuple[str, ...]:
        return tuple(hyp for _, hyp in self.pairs if hyp is not None)

    @cached_property
    def counts(self) -> Counts:
        ins = sum(ref is None for ref, _ in self.pairs)
        dels = sum(hyp is None for _, hyp in self.pairs)
        sub = sum(ref != hyp for ref, hyp in self.pairs) - ins - dels
        return Counts(len(self.pairs) - ins, ins, dels, sub, 1, int(ins + dels + sub > 0))


@dataclass(frozen=True)
class Counts:
    """What was said and what went wrong; counts of several utterances add up with `total`."""

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
        """Errors per word of the reference, 0.05 for 5 %; above 1 is possible, inf if nothing was said but heard."""
        return _ratio(self.errors, self.words)

    @property
    def ser(self) -> float:
        """The part of sentences with an error."""
        return _ratio(self.wrong_sentences, self.sentences)


def total(counts: Iterable[Counts]) -> Counts:
    rows = [(c.words, c.insertions, c.deletions, c.substitutions, c.sentences, c.wrong_sentences) for c in counts]
    return Counts(*map(sum, zip(*rows, strict=True))) if rows else Counts()


@dataclass(frozen=True)
class WerReport:
    """The score of a test set; utterances are in the order of the references."""

    utterances: tuple[Aligned, ...]
    unknown: tuple[str, ...] = ()  # ids of hypotheses that have no reference; they are not scored
    unit: Unit = "word"

    @cached_property
    def counts(self) -> Counts:
        return total(u.counts for u in self.utterances)

    @property
    def wer(self) -> float:
        return self.counts.wer

    @property
    def ser(self) -> float:
        return self.counts.ser

    @property
    def missing(self) -> tuple[str, ...]:
        """Ids of references that have no hypothesis."""
        return tuple(u.id for u in self.utterances if u.missing)

    def by_speaker(self) -> dict[str, Counts]:
        """Counts of each speaker, by name; {} unless speakers were given to `score`."""
        names = sorted({u.speaker for u in self.utterances if u.speaker})
        return {name: total(u.counts for u in self.utterances if u.speaker == name) for name in names}

    def kaldi_lines(self) -> list[str]:
        """The lines of Kaldi's compute-wer: %WER (%CER for characters), %SER and the number of sentences."""
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
    """Compare texts of the same id.  A missing hypothesis is an empty one, and reported; so is one without reference.

    An empty reference is legal: what was heard there counts as insertions.  With unit "character" the spaces between
    words count as characters.  `speakers` maps ids to names, for the breakdown and the interval by speaker.
    """
    if not references:
        raise UserError("nothing to score: there are no references")
    speakers = speakers or {}
    pairs = _align([references[i] for i in references], [hypotheses.get(i, "") for i in references], unit)
    utterances = (
        Aligned(i, p, speakers.get(i, ""), i not in hypotheses) for i, p in zip(references, pairs, strict=True)
    )
    return WerReport(tuple(utterances), tuple(i for i in hypotheses if i not in references), unit)


def bootstrap(
    report: WerReport, samples: int = 1000, seed: int = 0, *, by_speaker: bool = False, level: float = 0.95
) -> tuple[float, float]:
    """The interval (low, high) of the error rate that holds `level` of `samples` redrawn test sets, as fractions.

    Utterances are drawn with replacement; with `by_speaker` whole speakers are, which is honest where errors go by
    speaker (and wider).  M. Bisani and H. Ney, "Bootstrap estimates for confidence intervals in ASR performance
    evaluation", 2004; quantiles where they take the mean and 1.96 standard deviations.
    """
    (rates,) = _redrawn([report], samples, seed, by_speaker)
    return _interval(rates, level)


class Difference(NamedTuple):
    """Of a report's error rate from another's, fractions: less is better.

    better: the share of redrawn test sets in which it is smaller.
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
) -> Difference:
    """How far `report` is from `other`, of the same references: both are told about the same redrawn test sets, and what is
    hard for both cancels.  So it tells systems apart whose intervals overlap (Bisani and Ney, as above, section 4).

    UserError where the references differ.
    """
    if [(u.id, u.reference) for u in report.utterances] != [(u.id, u.reference) for u in other.utterances]:
        raise UserError("two systems are compared on the same references; these differ")
    ours, theirs = _redrawn([report, other], samples, seed, by_speaker)
    with np.errstate(invalid="ignore"):  # two endless rates
        low, high = _interval(ours - theirs, level)
    return Difference(report.wer - other.wer, low, high, float((ours < theirs).mean()))


def _redrawn(reports: Sequence[WerReport], samples: int, seed: int, by_speaker: bool) -> np.ndarray:
    """(n, samples) error rates of n reports on the same redrawn test sets."""
    if samples < 1:
        raise UserError(f"bootstrap needs samples >= 1, got samples={samples}")
    counts = [list(r.by_speaker().values()) if by_speaker else [u.counts for u in r.utterances] for r in reports]
    size = len(counts[0])
    if not size:
        raise UserError("a bootstrap by speaker needs speakers; none of the utterances has one")
    errors, words = (np.array([[getattr(c, name) for c in of] for of in counts]) for name in ("errors", "words"))
    generator = np.random.default_rng(seed)
    rates = np.empty((len(reports), samples))
    block = max(1, 2**20 // size)  # redrawn sets at a time: bounded memory for any corpus
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
        raise UserError(f"unknown unit {unit!r}: 'word' or 'character'")
    # Versions of jiwer differ about empty texts, and there is nothing to align in them.
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
    """jiwer's chunks (runs of one edit) as pairs of units."""
    pairs: list[tuple[str | None, str | None]] = []
    for chunk in chunks:
        r = ref[chunk.ref_start_idx : chunk.ref_end_idx]
        h = hyp[chunk.hyp_start_idx : chunk.hyp_end_idx]
        n = max(len(r), len(h))
        pairs += zip(r or [None] * n, h or [None] * n, strict=True)
    return tuple(pairs)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("inf") if part else 0.0
