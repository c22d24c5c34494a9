"""Confidence of words: evidence from the search, calibrated on speech with known text.

    log_prob  mean log-probability of the word's units under the CTC head, at the frames where they lie
    agreed    share of the n-best list, weighted by score, that has the word at its time
    posterior_sharp, posterior, posterior_flat
              share of the word lattice's paths that have the word at its time, by scores times 1, 0.5 and 0.25
    rivals    ln(1 + words of the lattice that are being said in the word's middle)      entropy  of these, in nats
    least     the lowest log-probability of a unit      units  their number      frames  ln(1 + frames of the word)

None of them is a probability of being right: CTC heads are overconfident, n-best scores more so.  A logistic regression over
them, fitted on a validation set by `samba-asr calibrate`, makes one: of the words with confidence 0.9, nine in ten are right
(M. Siu, H. Gish, "Evaluation of word confidence for speech recognition systems", 1999; A. Niculescu-Mizil, R. Caruana,
"Predicting good probabilities with supervised learning", 2005; G. Evermann, P. Woodland, "Large vocabulary decoding and
confidence estimation using word posterior probabilities", 2000).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samba_asr.errors import UserError

FILE = "confidence.json"
VERSION = 2
NEARBY = 12  # frames: equal words that begin no further apart are one word
PENALTY = 1e-3  # of squared weights, so that a set without any error has a solution too


WITH_LATTICE = (
    "log_prob", "agreed", "posterior_sharp", "posterior", "posterior_flat", "rivals", "entropy", "least", "frames", "units",
)  # fmt: skip
"""Evidence of searches that keep a word lattice.  `agreed` adds to it where a neural language model has read the lattice."""
PLAIN = ("log_prob", "agreed")
SPEECH = ("log_prob",)
SHARES = frozenset({"agreed", "posterior_sharp", "posterior", "posterior_flat"})
LOGS = frozenset({"log_prob", "least"})


class Evidence(NamedTuple):
    """Evidence for a word; the head of this file explains the fields.  NaN: the search has no lattice."""

    log_prob: float  # nats, at most 0
    agreed: float  # 0 to 1
    posterior_sharp: float = math.nan
    posterior: float = math.nan
    posterior_flat: float = math.nan
    rivals: float = math.nan
    entropy: float = math.nan
    least: float = math.nan
    frames: float = math.nan
    units: float = math.nan


class Logistic(NamedTuple):
    """P(right) = s(bias + sum of weight (x - mean) / deviation), s the inverse of logit.  x: logits of probabilities."""

    names: tuple[str, ...]  # of evidence
    weights: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    bias: float

    def __call__(self, evidence: Evidence) -> float:
        x = (_features([evidence], self.names)[0] - self.mean) / self.deviation
        return float(1 / (1 + np.exp(-(self.bias + x @ np.array(self.weights)))))

    @classmethod
    def fit(cls, evidence: Sequence[Evidence], right: Sequence[bool], names: tuple[str, ...]) -> Logistic:
        """Fit the weights by Newton's method."""
        x, y = _features(evidence, names), np.asarray(right, dtype=np.float64)
        mean, deviation = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
        x = np.concatenate([np.ones((len(y), 1)), (x - mean) / deviation], axis=1)
        w, ridge = np.zeros(x.shape[1]), PENALTY * len(y) * np.diag([1e-3, *[1.0] * len(names)])
        for _ in range(50):
            p = 1 / (1 + np.exp(-x @ w))
            step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + ridge, x.T @ (y - p) - ridge @ w)
            w += step
            if np.abs(step).max() < 1e-9:
                break
        return cls(names, tuple(w[1:].tolist()), tuple(mean.tolist()), tuple(deviation.tolist()), float(w[0]))


class Calibration(NamedTuple):
    """The calibration of a model: the first of `models` counts that has all its evidence.

    speech: for `heard`; None: that is the confidence.
    """

    models: tuple[Logistic, ...]
    speech: Logistic | None = None

    def __call__(self, evidence: Evidence) -> float:
        found = next((one for one in self.models if _complete(evidence, one.names)), None)
        return raw(evidence) if found is None else found(evidence)

    def heard(self, evidence: Evidence) -> float:
        """Return the confidence that something was said at all, by the CTC head alone.

        A lattice says which word is the likeliest, and of music that is often sure (egs/mini_librispeech/RESULTS.md).
        """
        return self(evidence) if self.speech is None else self.speech(evidence)

    @classmethod
    def two(cls, bias: float, by_prob: float, by_agreed: float) -> Calibration:
        """Return a calibration of version 1: of log_prob and agreed, as they are."""
        return cls((Logistic(PLAIN, (by_prob, by_agreed), (0.0, 0.0), (1.0, 1.0), bias),))

    @classmethod
    def fit(cls, evidence: Sequence[Evidence], right: Sequence[bool]) -> Calibration:
        """Fit one model to the words that have a lattice, if all but a few have, and one without it.  UserError without words."""
        if not evidence:
            raise UserError(
                "no word was recognized, so there is nothing to calibrate on: use another set, or another model"
            )
        there = [n for n, one in enumerate(evidence) if _complete(one, WITH_LATTICE)]
        models = [Logistic.fit(evidence, right, PLAIN)]
        if len(there) > len(evidence) / 2:
            models.insert(0, Logistic.fit([evidence[n] for n in there], [right[n] for n in there], WITH_LATTICE))
        return cls(tuple(models), Logistic.fit(evidence, right, SPEECH))

    @classmethod
    def read(cls, folder: Path) -> Calibration | None:
        """Read the calibration of a model folder; None if it has none.  UserError for an invalid file."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text())
            if "version" not in found:
                calibration = cls.two(*(float(found[name]) for name in ("bias", "by_prob", "by_agreed")))
            elif found["version"] == VERSION:
                speech = _logistic(found["speech"]) if "speech" in found else None
                calibration = cls(tuple(map(_logistic, found["models"])), speech)
            else:
                raise ValueError(f"version {found['version']}; this program reads versions 1 and {VERSION}")
            every = [*calibration.models, *([calibration.speech] if calibration.speech else [])]
            if not calibration.models or not np.isfinite([x for one in every for x in _numbers(one)]).all():
                raise ValueError("not finite")
            return calibration
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}: not a calibration ({error}): delete it, or run samba-asr calibrate again"
            ) from None

    def write(self, folder: Path) -> None:
        found: dict[str, Any] = {"version": VERSION, "models": [one._asdict() for one in self.models]}
        if self.speech is not None:
            found["speech"] = self.speech._asdict()
        (folder / FILE).write_text(json.dumps(found, indent=2) + "\n")


def _logistic(found: dict[str, Any]) -> Logistic:
    """Read a model of a file; ValueError, TypeError or KeyError for an invalid one."""
    names = tuple(str(name) for name in found["names"])
    if unknown := set(names) - set(Evidence._fields):
        raise ValueError(f"unknown evidence {', '.join(sorted(unknown))}")
    weights, mean, deviation = (tuple(float(x) for x in found[key]) for key in ("weights", "mean", "deviation"))
    if not names or not len(names) == len(weights) == len(mean) == len(deviation) or not min(deviation) > 0:
        raise ValueError("one weight, mean and deviation above 0 for each name")
    return Logistic(names, weights, mean, deviation, float(found["bias"]))


def _numbers(one: Logistic) -> list[float]:
    return [*one.weights, *one.mean, *one.deviation, one.bias]


def _complete(evidence: Evidence, names: Sequence[str]) -> bool:
    return not any(math.isnan(getattr(evidence, name)) for name in names)


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


def normalized_cross_entropy(confidence: Sequence[float], right: Sequence[bool]) -> float:
    """Compute NIST's NCE: 1 if all is known, 0 for the share of right words as every word's confidence, less if worse.

    NaN if all words are right, or all wrong.
    """
    p, y = np.clip(np.asarray(confidence, dtype=np.float64), 1e-4, 1 - 1e-4), np.asarray(right, dtype=np.float64)
    share = y.mean() if len(y) else 0.0
    if not 0 < share < 1:
        return math.nan
    most = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    return float(1 + (y * np.log(p) + (1 - y) * np.log(1 - p)).mean() / most)


def area_under_curve(confidence: Sequence[float], right: Sequence[bool]) -> float:
    """Compute the AUC: how often a right word has more confidence than a wrong one; equal ones count half.  NaN as above."""
    c, y = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    low, high = np.sort(c[~y]), c[y]
    if not len(low) or not len(high):
        return math.nan
    below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(below.mean() / (2 * len(low)))


def _features(evidence: Sequence[Evidence], names: Sequence[str]) -> np.ndarray:
    """(n, names)"""
    x = np.array([[getattr(one, name) for name in names] for one in evidence], dtype=np.float64)
    for column, name in enumerate(names):
        if name in SHARES:
            x[:, column] = _logit(x[:, column])
        elif name in LOGS:
            x[:, column] = _logit(np.exp(x[:, column]))
    return x


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 0.005, 0.995)
    return np.log(p / (1 - p))
