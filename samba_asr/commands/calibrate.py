"""`samba-asr calibrate`: calibrate the confidences of words."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from samba_asr.commands.search_options import add_settings, load_recognizer
from samba_asr.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "calibrate",
        help="calibrate the confidences of words",
        description="Recognize a validation set with the search settings of later use, fit confidences to the words that are "
        "right, and write confidence.json into the model folder.  NCE is the normalized cross-entropy (1: the confidences know "
        "all, 0: no more than the share of right words), AUC how often a right word has more confidence than a wrong one.  The "
        "printed numbers are cross-validated: each word is in a part that was not fitted (five parts, by utterance).",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="model folder")
    parser.add_argument("--data", type=Path, required=True, metavar="MANIFEST", help="utterances with texts, JSONL")
    parser.add_argument("--test", action="store_true", help="fit nothing: only measure the present confidences")
    parser.add_argument(
        "--graph",
        action="store_true",
        help="also train a graph network (lattice.safetensors) that judges every word of the lattice by its neighbours: better "
        "alternatives, about the same confidences of the best text; a minute more",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="reliability diagram, .png, .svg or .pdf")
    parser.add_argument("--latency-ms", type=float, metavar="N", help="as in samba-asr transcribe")
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: %(default)s)")
    add_settings(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from samba_asr import plot
    from samba_asr.data.manifest import read_manifest
    from samba_asr.evaluation.calibrate import calibrate, collect, draw, measure
    from samba_asr.hub import model_folder

    if args.plot:
        plot.check_suffix(args.plot)
    utterances = [u for u in read_manifest(args.data) if u.text]
    if not utterances:
        raise UserError(f"{args.data} has no texts to compare with")
    graph = None
    if args.test:
        words = collect(load_recognizer(args.model, args.device, args.overrides), utterances, args.latency_ms)
        confidences = {"now": words.confidence}
    else:
        options = {"device": args.device, "settings": args.overrides, "latency_ms": args.latency_ms, "enough": math.inf}
        words, after, graph = calibrate(
            model_folder(args.model, writes="calibrate"), utterances, **options, graph=args.graph
        )
        confidences = {"before": words.confidence, "after": after}
    print(f"{len(words.right)} words, {100 * words.share:.1f} % of them right")
    for name, confidence in confidences.items():
        found = measure(confidence, words.right)
        near = f", of those with about 0.9: {100 * found.near_right:.0f} % right ({found.near})" if found.near else ""
        print(
            f"{name}: NCE {found.entropy:.3f}, AUC {found.area:.3f}, mean confidence {found.mean:.3f}, "
            f"expected calibration error {found.error:.3f}{near}"
        )
    if graph is not None:
        print(
            f"graph network: NCE {graph.entropy:.3f} of these words, "
            f"{graph.arcs_entropy:.3f} of the {len(graph.arcs)} words of their lattices"
        )
    if args.plot:
        print(draw(confidences, words.right, args.plot))
    return 0
