"""`samba-asr bench`: measure speed and memory; here of training, in hours of audio an hour."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

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
    parser.add_argument(
        "--count",
        action="store_true",
        help="count what one step would launch on a GPU, and where it would wait for it; needs no GPU",
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
    if args.count:
        return count(files, overrides, threads(args), args.json)
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


def count(files: list[str], overrides: list[str], threads: int, as_json: bool) -> int:
    """Print the operations of one training step on a GPU, with Triton kernels and without; return 0."""
    from samba_asr.bench.measure import apart

    rows = []
    for kernels in ("triton", "none"):
        rows.append(
            apart("samba_asr.bench.count", threads, {"files": files, "overrides": overrides, "kernels": kernels})
        )
        if not as_json:
            print(counted(rows[-1]), flush=True)
    if as_json:
        print(json.dumps(rows, indent=2))
    return 0


def counted(row: dict[str, Any]) -> str:
    """Return the counts of a step in words."""
    most = ", ".join(f"{name} {n}" for name, n in row["most"].items())
    how = f"Triton kernels ({row['triton']} calls)" if row["triton"] else "torch's own operations"
    return (
        f"{row['losses']}, {how}: {row['operations']} operations, of which {row['launches']} launch something; "
        f"the CPU waits {sum(row['waits'].values())} times\n  most often: {most}"
    )
