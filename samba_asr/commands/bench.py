"""`samba-asr bench`: measure speed and memory; here of training, in hours of audio an hour."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from samba_asr.commands import bench_mixers, bench_ops, bench_serve, bench_soak, bench_transcribe
from samba_asr.commands.bench_common import add_common, memory, place, threads
from samba_asr.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "bench",
        help="measure speed and memory",
        description="Measure speed and peak memory.  Every measurement runs in its own process.",
    )
    kinds = parser.add_subparsers(dest="bench", metavar="WHAT", required=True)
    _add_train(kinds)
    bench_transcribe.add_parser(kinds)
    bench_ops.add_parser(kinds)
    bench_mixers.add_parser(kinds)
    bench_serve.add_parser(kinds)
    bench_soak.add_parser(kinds)
    return parser


def _add_train(kinds) -> None:
    parser = kinds.add_parser(
        "train",
        help="speed of training",
        description="Measure training steps, including reading and augmentation, without validation and checkpoints.",
    )
    parser.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="NAME_OR_FILE", help="as for `samba-asr train`"
    )
    parser.add_argument("--data", type=Path, metavar="MANIFEST", help="utterances (default: synthetic)")
    parser.add_argument(
        "--seconds", type=float, default=30, metavar="N", help="seconds of training (default: %(default)s)"
    )
    add_common(parser)
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="such as data.batch_seconds=60")
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Print one line, or JSON; return 0."""
    from samba_asr.bench.measure import apart, hardware

    # `--config a b key=value`: argparse gives all three to --config
    files = [text for text in args.config if "=" not in text]
    overrides = [text for text in args.config if "=" in text] + args.overrides
    if args.seconds <= 0:
        raise UserError(f"--seconds {args.seconds:g}: give more than 0")
    data = str(args.data) if args.data else None
    question = {"files": files, "overrides": overrides, "data": data, "seconds": args.seconds}
    found = apart("samba_asr.bench.train", threads(args), question)
    found["hardware"] = hardware(found["device"])
    found["data"] = data or "synthetic"
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print(
        f"training: {found['hours_per_hour']:.1f} hours of audio an hour; {memory(found)} at most\n"
        f"{found['parameters'] / 1e6:.2f} M parameters, {found['dtype']}, batches of {found['batch_seconds']:g} s, "
        f"{found['seconds_per_step']:.2f} s a step over {found['steps']} steps; {found['data']} data; "
        f"{place(found)}"
    )
    return 0
