"""`samba-asr calibrate`: make words' confidences mean what they say."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr.commands.search_options import add_settings, load_recognizer
from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.decoding.confidence import Evidence

logger = logging.getLogger(__name__)

FOLDS = 5


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "calibrate",
        help="make words' confidences mean what they say",
        description="Recognise a validation set with the search that the model will be used with, learn which words turn out "
        "right, and write confidence.json into the model folder.  The errors that are printed are of words that were "
        "left out of the learning (five parts, by utterance).",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="model folder")
    parser.add_argument("--data", type=Path, required=True, metavar="MANIFEST", help="utterances with texts, JSONL")
    parser.add_argument("--test", action="store_true", help="learn nothing: say how well the present confidences do")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="reliability diagram, .png, .svg or .pdf")
    parser.add_argument("--latency-ms", type=float, metavar="N", help="as in samba-asr transcribe")
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda | cuda:1 (default: %(default)s)")
    add_settings(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from samba_asr import plot
    from samba_asr.decoding.confidence import Calibration, expected_error

    if args.plot:
        plot.check_suffix(args.plot)
    evidence, right, before, groups = _heard(args)
    share = sum(right) / max(len(right), 1)
    print(f"{len(right)} words, {100 * share:.1f} % of them right")
    after = before
    if not args.test:
        calibration = Calibration.fit(evidence, right)
        after = cross_validated(evidence, right, groups)
        calibration.write(args.model)
    for name, confidence in {"before": before, "after": after}.items() if not args.test else {"now": before}.items():
        sure = [y for c, y in zip(confidence, right, strict=True) if 0.85 <= c < 0.95]
        told = f", of those with about 0.9: {100 * sum(sure) / len(sure):.0f} % right ({len(sure)})" if sure else ""
        print(
            f"{name}: mean confidence {sum(confidence) / len(confidence):.3f}, expected calibration error "
            f"{expected_error(confidence, right):.3f}{told}"
        )
    if args.plot:
        print(
            plot_reliability({"before": before, "after": after} if not args.test else {"now": before}, right, args.plot)
        )
    return 0


def _heard(args: argparse.Namespace) -> tuple[list[Evidence], list[bool], list[float], list[int]]:
    """Of each recognised word: its evidence, whether it is right, its present confidence, its utterance."""
    from samba_asr.data.manifest import read_manifest
    from samba_asr.decoding.confidence import raw
    from samba_asr.evaluation.testset import recognized
    from samba_asr.metrics.wer import score

    utterances = [u for u in read_manifest(args.data) if u.text]
    if not utterances:
        raise UserError(f"{args.data} has no texts to compare with")
    recognizer = load_recognizer(args.model, args.device, args.overrides, None if args.test else raw)
    words = {u.id: result.words for u, result in recognized(recognizer, utterances, args.latency_ms)}
    references = {u.id: u.text for u in utterances if u.id in words}
    report = score(references, {name: " ".join(w.text for w in some) for name, some in words.items()})
    evidence, right, before, groups = [], [], [], []
    for group, utterance in enumerate(report.utterances):
        said = [ref == hyp for ref, hyp in utterance.pairs if hyp is not None]
        for word, ok in zip(words[utterance.id], said, strict=True):
            evidence.append(word.evidence)
            right.append(ok)
            before.append(word.confidence)
            groups.append(group)
    if not evidence:
        raise UserError(f"no word was recognised in {args.data}: there is nothing to calibrate on")
    return evidence, right, before, groups


def cross_validated(evidence: Sequence[Evidence], right: Sequence[bool], groups: Sequence[int]) -> list[float]:
    """Each word's confidence by what was learned from the other parts of the utterances."""
    from samba_asr.decoding.confidence import Calibration

    found = [0.0] * len(right)
    for fold in range(FOLDS):
        known = [n for n, group in enumerate(groups) if group % FOLDS != fold] or list(range(len(right)))
        calibration = Calibration.fit([evidence[n] for n in known], [right[n] for n in known])
        for n, group in enumerate(groups):
            if group % FOLDS == fold:
                found[n] = calibration(evidence[n])
    return found


def plot_reliability(confidences: dict[str, Sequence[float]], right: Sequence[bool], path: Path) -> Path:
    """Confidence against the share that is right, ten parts of equal size."""
    from samba_asr import plot
    from samba_asr.decoding.confidence import reliability

    figure = plot.figure(5, 5)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, confidence in confidences.items():
        parts = reliability(confidence, right)
        axes.plot([mean for mean, *_ in parts], [share for _, share, _ in parts], marker="o", label=name)
    axes.set(xlabel="confidence", ylabel="share of words that are right", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend()
    return plot.save(figure, path)
