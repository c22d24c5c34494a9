"""Confidence of words: evidence from the search, calibrated on speech with known text.

    log_prob  mean log-probability of the word's units under the CTC head, at the frames where they lie
    agreed    share of the n-best list, weighted by score, that has the word at its time

Neither is a probability of being right: CTC heads are overconfident, n-best scores more so.  A logistic regression over both,
fitted on a validation set by `samba-asr calibrate`, makes one: of the words with confidence 0.9, nine in ten are right (M. Siu,
H. Gish, "Evaluation of word confidence for speech recognition systems", 1999; A. Niculescu-Mizil, R. Caruana, "Predicting good
probabilities with supervised learning", 2005).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from samba_asr.errors import UserError

FILE = "confidence.json"
NEARBY = 12  # frames: equal words that begin no further apart are one word
PENALTY = 1e-3  # of squared weights, so that a set without any error has a solution too


class Evidence(NamedTuple):
    """Evidence for a word; the head of this file explains the fields."""

    log_prob: float  # nats, at most 0
    agreed: float  # 0 to 1


class Calibration(NamedTuple):
    """Logistic model P(right) = s(bias + by_prob logit(exp log_prob) + by_agreed logit(agreed)), s the inverse of logit."""

    bias: float
    by_prob: float
    by_agreed: float

    def __call__(self, evidence: Evidence) -> float:
        return float(1 / (1 + np.exp(-(_features([evidence]) @ np.array(self))[0])))

    @classmethod
    def fit(cls, evidence: Sequence[Evidence], right: Sequence[bool]) -> Calibration:
        """Fit the weights by Newton's method; UserError without words."""
        if not evidence:
            raise UserError(
                "no word was recognized, so there is nothing to calibrate on: use another set, or another model"
            )
        x, y, w = _features(evidence), np.asarray(right, dtype=np.float64), np.zeros(3)
        ridge = PENALTY * len(y) * np.diag([1e-3, 1.0, 1.0])
        for _ in range(50):
            p = 1 / (1 + np.exp(-x @ w))
            step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + ridge, x.T @ (y - p) - ridge @ w)
            w += step
            if np.abs(step).max() < 1e-9:
                break
        return cls(*w.tolist())

    @classmethod
    def read(cls, folder: Path) -> Calibration | None:
        """Read the calibration of a model folder; None if it has none.  UserError for an invalid file."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text())
            weights = cls(**{name: float(found[name]) for name in cls._fields})
            if not all(map(math.isfinite, weights)):
                raise ValueError("not finite")
            return weights
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}: not a calibration ({error}): delete it, or run samba-asr calibrate again"
            ) from None

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(self._asdict(), indent=2) + "\n")


def raw(evidence: Evidence) -> float:
    """Return the uncalibrated confidence: the geometric mean of the units' probabilities."""
    return math.exp(evidence.log_prob)


def ungated(bound: float, folder: Path | None) -> str:
    """Explain why a bound on the confidence is ignored for a model without a calibration, and what to do."""
    where = folder or "a model in memory"
    return (
        f"{where} is not calibrated, so decode.endpoint.confidence={bound:g} is ignored: "
        f"samba-asr calibrate --model {folder or 'DIR'} --data MANIFEST"
    )


def agreement(
    words: Sequence[tuple[str, int]], others: Sequence[Sequence[tuple[str, int]]], scores: Sequence[float]
) -> list[float]:
    """Return, for each of `words` (text and first frame) of the first hypothesis, the share of all that have it.

    others: words of every hypothesis, the first included.  scores: nats, one for each hypothesis.
    """
    shares = np.exp(np.asarray(scores, dtype=np.float64) - max(scores))
    shares /= shares.sum()
    return [
        float(
            sum(
                share
                for some, share in zip(others, shares, strict=True)
                if any(text == other and abs(at - time) <= NEARBY for other, time in some)
            )
        )
        for text, at in words
    ]


def expected_error(confidence: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Compute the expected calibration error: |share of right words - mean confidence|, averaged over bins of words."""
    return sum(n * abs(share - mean) for mean, share, n in reliability(confidence, right, bins)) / max(
        len(confidence), 1
    )


def reliability(confidence: Sequence[float], right: Sequence[bool], bins: int = 10) -> list[tuple[float, float, int]]:
    """Return (mean confidence, share of right words, number of words) of each of `bins` groups of words, by confidence."""
    order = np.argsort(confidence, kind="stable")
    c, y = np.asarray(confidence, dtype=np.float64)[order], np.asarray(right, dtype=np.float64)[order]
    parts = [part for part in np.array_split(np.arange(len(c)), bins) if len(part)]
    return [(float(c[part].mean()), float(y[part].mean()), len(part)) for part in parts]


def _features(evidence: Sequence[Evidence]) -> np.ndarray:
    """(n, 3)"""
    log_prob, agreed = np.asarray(evidence, dtype=np.float64).T
    return np.stack([np.ones_like(agreed), _logit(np.exp(log_prob)), _logit(agreed)], axis=1)


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 0.005, 0.995)
    return np.log(p / (1 - p))
