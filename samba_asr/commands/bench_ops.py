"""`samba-asr bench ops`: compare our scans with those of other packages on the same inputs; a table, JSON or a plot."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from samba_asr import plot
from samba_asr.config import MIXERS
from samba_asr.errors import UserError

OPS = ("selective_scan", "ssd", "lti", "para_gru", "para_lstm", "scan2d", *MIXERS)  # samba_asr.bench.ops.OPS, by test
DTYPES = ("float32", "bfloat16")
BASE = "naive"  # backend to whose time the ratios refer; all scans have it
HEAD = (
    *("op", "backend", "batch", "length", "d_model", "forward ms", "train ms", "step ms", "MiB", "floor %"),
    *("error", "grad error", "x naive"),
)


def add_parser(kinds) -> argparse.ArgumentParser:
    parser = kinds.add_parser(
        "ops",
        help="speed of scans and mixers",
        description="Measure each op at each size: time of forward, of forward and backward (train), and of a live step of 8 "
        "frames for one session; memory of training beyond the inputs; the least time that bytes and operations allow, as a "
        "share of the training time; largest errors against the naive loop in float64.  Other packages are measured too if they "
        "are installed (mambapy; on CUDA mamba-ssm and fla-core).",
    )
    parser.add_argument("--op", nargs="+", choices=OPS, default=list(OPS), help="default: all")
    parser.add_argument("--backend", nargs="+", metavar="NAME", help="default: all that run here")
    parser.add_argument("--batch", type=int, nargs="+", default=[8], metavar="N", help="rows (default: 8)")
    parser.add_argument(
        "--length", type=int, nargs="+", default=[100, 400, 1500], metavar="N", help="steps (default: 100 400 1500)"
    )
    parser.add_argument(
        "--d-model", type=int, nargs="+", default=[256], metavar="N", help="half the channels of a scan (default: 256)"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the inputs (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: as torch chooses)")
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="calls, of which the median counts (default: %(default)s)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw train ms over length, .png or .svg")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print each row when it is measured, or JSON at the end; return 0."""
    from samba_asr.bench.measure import apart, hardware
    from samba_asr.device import choose_device

    for name in ("batch", "length", "d_model"):
        if wrong := [v for v in getattr(args, name) if v < 1]:
            raise UserError(f"--{name.replace('_', '-')} {wrong[0]}: give 1 or more")
    if args.rounds < 1 or args.threads < 0:
        raise UserError(f"--rounds {args.rounds}, --threads {args.threads}: give 1 or more")
    if args.plot:
        plot.check_suffix(args.plot)
    import torch

    threads = args.threads or torch.get_num_threads()
    device = choose_device(args.device)
    report = {
        "device": str(device),
        "hardware": hardware(str(device)),
        "threads": threads,
        "dtype": args.dtype,
        "rows": [],
    }
    if not args.json:
        print(f"{device} ({report['hardware']}), threads: {threads}, {args.dtype}, median of {args.rounds}")
    table = _Table()
    for work in _works(args.op, args.backend, args.batch, args.length, args.d_model, device.type):
        found = apart(
            "samba_asr.bench.ops", threads, {**work, "dtype": args.dtype, "device": str(device), "rounds": args.rounds}
        )
        row = {**work, **found}
        row["ratio"] = _ratio(row, report["rows"])
        report["rows"].append(row)
        if not args.json:
            print(table.line(row), flush=True)
    if args.json:
        print(json.dumps(report, indent=2))
    if args.plot:
        draw(report, args.plot)
        print(f"drawn: {args.plot}", file=sys.stderr)
    return 0


def _works(
    ops: Sequence[str], wanted: Sequence[str] | None, batches, lengths, widths, device: str
) -> Iterator[dict[str, Any]]:
    """Yield the measurements; at each size the backend `BASE` comes first."""
    from samba_asr.bench.ops import backends

    here = {op: [name for name in backends(op, device) if not wanted or name in wanted] for op in ops}
    unknown = [name for name in wanted or () if not any(name in names for names in here.values())]
    if unknown:
        known = sorted({name for op in ops for name in backends(op, device)})
        raise UserError(f"--backend {unknown[0]}: not available for {', '.join(ops)}; choose from {', '.join(known)}")
    for op, b, d, t in itertools.product(ops, batches, widths, lengths):
        for backend in here[op]:
            yield {"op": op, "backend": backend, "batch": b, "length": t, "d_model": d}


def _ratio(row: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> float | None:
    """Return the training time of the naive loop at this size over this row's; None without one."""
    size = ("op", "batch", "length", "d_model")
    for base in (*earlier, row):
        if base["backend"] == BASE and all(base[k] == row[k] for k in size):
            return base["train_ms"] / row["train_ms"] if "train_ms" in base and "train_ms" in row else None
    return None


class _Table:
    """Table printed line by line, with columns as wide as the head or the longest name."""

    def __init__(self):
        self.widths = [max(14, len(HEAD[0])), max(9, len(HEAD[1])), *(max(7, len(h)) for h in HEAD[2:])]
        self.begun = False

    def line(self, row: dict[str, Any]) -> str:
        cells = [row["op"], row["backend"], *(str(row[k]) for k in ("batch", "length", "d_model"))]
        if "left_out" in row:
            text = self._join([*cells, f"  {row['left_out']}"])
        else:
            numbers = [f"{row[k]:.2f}" if k in row else "" for k in ("forward_ms", "train_ms", "step_ms")]
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f}"
            cost = [f"{row['op_memory']:.0f}", f"{100 * row['train_floor']:.1f}"]
            errors = [f"{row[k]:.0e}" if k in row else "" for k in ("error", "gradient_error")]
            text = self._join([*cells, *numbers, *cost, *errors, ratio])
        head = "" if self.begun else self._join(HEAD) + "\n"
        self.begun = True
        return head + text

    def _join(self, cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, self.widths, strict=False))]
        return "  ".join(padded).rstrip()


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw training time over length: one panel for each op, one line for each backend (and batch and width, if several)."""
    ops = list(dict.fromkeys(row["op"] for row in report["rows"]))
    several = len({(row["batch"], row["d_model"]) for row in report["rows"]}) > 1
    figure = plot.figure(4 * len(ops), 3.5)
    axes = figure.subplots(1, len(ops), squeeze=False)
    for axis, op in zip(axes[0], ops, strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for row in report["rows"]:
            if row["op"] == op and "train_ms" in row:
                size = f", b {row['batch']}, d {row['d_model']}" if several else ""
                lines.setdefault(row["backend"] + size, []).append((row["length"], row["train_ms"]))
        for name, points in lines.items():
            axis.loglog(*zip(*sorted(points), strict=True), marker="o", label=name)
        axis.set(title=op, xlabel="steps", ylabel="forward and backward, ms")
        axis.grid(alpha=0.3, which="both")
        if lines:
            axis.legend(fontsize="small")
    figure.suptitle(f"{report['device']} ({report['hardware']}), {report['threads']} threads, {report['dtype']}")
    plot.save(figure, path)
