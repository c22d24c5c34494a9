"""Scores of punctuation and case: precision, recall and F1 of each mark, and the share of words in the right case.

    counts = MarkCounts.of(reference_marks, marks, reference_cases, cases)
    counts.f1(2), counts.case_accuracy

Counts add up, so a bootstrap over texts gives intervals (`interval`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MarkCounts:
    """Counts over words.  right, wanted, written: (marks,) of each mark: in both texts, in the reference, in the hypothesis.

    cases: words that were compared.  cases_right: those in the reference's case.
    """

    right: np.ndarray
    wanted: np.ndarray
    written: np.ndarray
    cases: int
    cases_right: int

    @classmethod
    def of(
        cls,
        reference: Sequence[int] | np.ndarray,
        marks: Sequence[int] | np.ndarray,
        reference_cases: Sequence[int] | np.ndarray,
        cases: Sequence[int] | np.ndarray,
        classes: int,
    ) -> MarkCounts:
        """Count the marks (t,) after the same words in two texts, and their cases (t,).  classes: number of marks."""
        a, b = np.asarray(reference, dtype=int), np.asarray(marks, dtype=int)
        right = np.bincount(a[a == b], minlength=classes)
        same = np.asarray(reference_cases, dtype=int) == np.asarray(cases, dtype=int)
        return cls(
            right, np.bincount(a, minlength=classes), np.bincount(b, minlength=classes), len(same), int(same.sum())
        )

    def __add__(self, other: MarkCounts) -> MarkCounts:
        return MarkCounts(
            self.right + other.right,
            self.wanted + other.wanted,
            self.written + other.written,
            self.cases + other.cases,
            self.cases_right + other.cases_right,
        )

    def precision(self, mark: int) -> float:
        """Return the share of written marks that are right; 0 if none is written."""
        return float(self.right[mark] / max(self.written[mark], 1))

    def recall(self, mark: int) -> float:
        """Return the share of the reference's marks that are written; 0 if it has none."""
        return float(self.right[mark] / max(self.wanted[mark], 1))

    def f1(self, mark: int) -> float:
        """Return 2 right / (wanted + written); 0 if there is no such mark."""
        return float(2 * self.right[mark] / max(self.wanted[mark] + self.written[mark], 1))

    @property
    def case_accuracy(self) -> float:
        return self.cases_right / max(self.cases, 1)


def add(counts: Sequence[MarkCounts]) -> MarkCounts:
    """Return the sum; at least one."""
    found = counts[0]
    for one in counts[1:]:
        found = found + one
    return found


def interval(
    counts: Sequence[MarkCounts], value: Callable[[MarkCounts], float], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of a value, by a bootstrap over texts (B. Efron, 1979)."""
    rng = np.random.default_rng(seed)
    values = [value(add([counts[i] for i in rng.integers(len(counts), size=len(counts))])) for _ in range(draws)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
