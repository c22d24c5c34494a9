"""Calibration of word confidences on a validation set, and its cross-validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from samba_asr import plot
from samba_asr.data.manifest import Utterance
from samba_asr.decoding.confidence import (
    Calibration,
    Evidence,
    area_under_curve,
    expected_error,
    normalized_cross_entropy,
    raw,
    reliability,
)
from samba_asr.errors import UserError
from samba_asr.evaluation.testset import recognized
from samba_asr.metrics.wer import score
from samba_asr.models.graph import FILE as GRAPH
from samba_asr.recognizer import Recognizer
from samba_asr.result import Result

if TYPE_CHECKING:
    from samba_asr.evaluation.calibrate_graph import Judged

FOLDS = 5
ENOUGH = 1800.0  # seconds of speech that calibrate a model: three weights are fitted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedWords:
    """The recognized words of a test set, compared with the texts; one entry for each word."""

    evidence: tuple[Evidence, ...]
    right: tuple[bool, ...]
    confidence: tuple[float, ...]  # by the recognizer
    group: tuple[int, ...]  # index of the utterance

    @property
    def share(self) -> float:
        """Share of right words."""
        return sum(self.right) / max(len(self.right), 1)


@dataclass(frozen=True)
class Reliability:
    """Agreement of confidences with the share of right words."""

    mean: float  # confidence
    error: float  # expected calibration error
    near: int  # number of words with a confidence of about 0.9
    near_right: float  # share of right words among these; NaN without any
    entropy: float  # normalized cross-entropy, at most 1; NaN if all words are right, or all wrong
    area: float  # under the ROC curve; NaN as well


class Calibrated(NamedTuple):
    """What `calibrate` found."""

    words: CheckedWords
    after: list[float]  # their confidences by `cross_validated`
    graph: Judged | None  # the words of lattices, by graph networks that were trained on others


def calibrate(
    folder: Path,
    utterances: Sequence[Utterance],
    *,
    device: str = "auto",
    settings: Sequence[str] = (),
    latency_ms: float | None = None,
    enough: float = ENOUGH,
    fewest: int = 1,
    graph: bool = False,
) -> Calibrated:
    """Calibrate the model in `folder`; return the words that it was fitted to, and their confidences by `cross_validated`.

    settings: overrides of the search, those of later use.  enough: seconds.  Of longer sets, every n-th utterance is taken.
    fewest: words that must be recognized.  graph: also train the network of `samba_asr.models.graph`.
    UserError without texts, or with fewer words.
    """
    utterances = [u for u in utterances if u.text]
    if not utterances:
        raise UserError("no utterance has a text, so there is nothing to calibrate on: use another set")
    seconds = sum(u.duration or 0.0 for u in utterances)
    utterances = utterances[:: max(1, round(seconds / enough))]
    recognizer = Recognizer.load(folder, device=device, settings=settings, sure=raw)
    results = {u.id: result for u, result in recognized(recognizer, utterances, latency_ms)}
    words = check(utterances, results)
    if len(words.right) < fewest:
        raise UserError(f"only {len(words.right)} words were recognized, and {fewest} are needed to calibrate on")
    calibration, after = fit(words)
    calibration.write(folder)
    logger.info("%s: confidences calibrated on %d words of %d utterances", folder, len(words.right), len(utterances))
    (folder / GRAPH).unlink(missing_ok=True)  # of an earlier calibration
    judged = None
    if graph:
        from samba_asr.evaluation.calibrate_graph import calibrate_graph

        judged = calibrate_graph(recognizer, utterances, results, latency_ms)
    return Calibrated(words, after, judged)


def collect(recognizer: Recognizer, utterances: Sequence[Utterance], latency_ms: float | None = None) -> CheckedWords:
    """Recognize utterances as sessions, and `check` their words."""
    return check(utterances, {u.id: result for u, result in recognized(recognizer, utterances, latency_ms)})


def check(utterances: Sequence[Utterance], results: Mapping[str, Result]) -> CheckedWords:
    """Compare the words of results, by the ids of their utterances, with the texts.  UserError if there is no word."""
    words = {name: result.words for name, result in results.items()}
    if not any(words.values()):
        raise UserError(
            "no word was recognized, so there is nothing to calibrate on: use another set, or another model"
        )
    references = {u.id: u.text for u in utterances if u.id in words}
    report = score(references, {name: " ".join(w.text for w in some) for name, some in words.items()})
    found = []
    for group, utterance in enumerate(report.utterances):
        right = [ref == hyp for ref, hyp in utterance.pairs if hyp is not None]
        for word, ok in zip(words[utterance.id], right, strict=True):
            found.append((word.evidence, ok, word.confidence, group))
    return CheckedWords(*zip(*found, strict=True))


def fit(words: CheckedWords) -> tuple[Calibration, list[float]]:
    """Fit a calibration to these words; also return the confidences by `cross_validated`."""
    return Calibration.fit(words.evidence, words.right), cross_validated(words)


def cross_validated(words: CheckedWords) -> list[float]:
    """Compute each word's confidence by a calibration fitted to the other parts of the utterances, of FOLDS."""
    found = [0.0] * len(words.right)
    for fold in range(FOLDS):
        known = [n for n, group in enumerate(words.group) if group % FOLDS != fold] or list(range(len(words.right)))
        calibration = Calibration.fit([words.evidence[n] for n in known], [words.right[n] for n in known])
        for n, group in enumerate(words.group):
            if group % FOLDS == fold:
                found[n] = calibration(words.evidence[n])
    return found


def measure(confidence: Sequence[float], right: Sequence[bool]) -> Reliability:
    """Measure the agreement of confidences with the share of right words."""
    near = [ok for c, ok in zip(confidence, right, strict=True) if 0.85 <= c < 0.95]
    share = sum(near) / len(near) if near else float("nan")
    return Reliability(
        mean=sum(confidence) / len(confidence),
        error=expected_error(confidence, right),
        near=len(near),
        near_right=share,
        entropy=normalized_cross_entropy(confidence, right),
        area=area_under_curve(confidence, right),
    )


def draw(confidences: Mapping[str, Sequence[float]], right: Sequence[bool], path: Path) -> Path:
    """Write a reliability diagram: confidence against the share of right words, in ten parts of equal size."""
    figure = plot.figure(5, 5)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, confidence in confidences.items():
        parts = reliability(confidence, right)
        axes.plot([mean for mean, *_ in parts], [share for _, share, _ in parts], marker="o", label=name)
    axes.set(xlabel="confidence", ylabel="share of words that are right", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend()
    return plot.save(figure, path)
