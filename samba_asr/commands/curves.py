"""`samba-asr curves`: draw the learning curves of one or more runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.training.curves import Curve, Curves

STYLES = ("-", "--", ":", "-.")  # line styles of a run's losses
SMOOTH = 9  # points in the moving average


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "curves",
        help="draw the learning curves of training runs",
        description="Draw training losses and validation scores by step, from the log.txt of one or more runs, also while they "
        "train.  Print the best and the last validation of each.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="EXP", help="folder of a run of train, pretrain or lm mamba"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("curves.png"), metavar="FILE", help=".png, .svg or .pdf (default: %(default)s)"
    )
    parser.add_argument(
        "--losses", nargs="+", metavar="NAME", help="training losses, such as ctc crf (default: loss, their sum)"
    )
    parser.add_argument(
        "--chain", action="store_true", help="draw each run after the previous one: for runs that continue by --init"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from samba_asr import plot
    from samba_asr.training.curves import read_curves

    plot.check_suffix(args.out)
    runs = [(folder.name or str(folder), read_curves(folder)) for folder in args.runs]
    losses = args.losses or ["loss"]
    known = sorted({name for _, curves in runs for name in curves.training})
    if not known:
        few = "no loss is logged yet: a run logs one every train.log_every=20 steps"
        if args.losses or not any(curves.validation for _, curves in runs):
            raise UserError(f"{', '.join(map(str, args.runs))}: {few}")
        print(f"{few}; only the validation is drawn")
        losses = []
    for name in losses:
        if name not in known:
            raise UserError(f"--losses {name}: these runs have {', '.join(known) or 'none'}")
    for name, curves in runs:
        print(f"{name}: {curves.steps} steps{_summary(curves)}")
    print(draw(runs, losses, args.chain, args.out))
    return 0


def _summary(curves: Curves) -> str:
    if not curves.validation:
        return ", not validated"
    metric, curve = next(iter(curves.validation.items()))
    best = min(curve, key=curve.__getitem__)
    return f", validation {metric}: best {curve[best]:g} at step {best}, last {curve[max(curve)]:g}"


def draw(runs: Sequence[tuple[str, Curves]], losses: Sequence[str], chain: bool, path: Path) -> Path:
    """Draw training on the left, and on the right a panel for each measure of validation."""
    from samba_asr import plot

    measures = list(dict.fromkeys(name for _, curves in runs for name in curves.validation))
    figure = plot.figure(12, max(4.0, 2.6 * len(measures)))
    grid = figure.add_gridspec(max(len(measures), 1), 2)
    panels = [figure.add_subplot(grid[:, 0]), *(figure.add_subplot(grid[i, 1]) for i in range(len(measures)))]
    begin = 0
    for i, (name, curves) in enumerate(runs):
        for j, loss in enumerate(losses):
            if loss in curves.training:
                x, y = _points(curves.training[loss], begin)
                label = name if len(losses) == 1 else f"{name}, {loss}"
                panels[0].plot(x, _smooth(y), f"C{i}{STYLES[j % len(STYLES)]}", label=label)
        for panel, measure in zip(panels[1:], measures, strict=True):
            if measure in curves.validation:
                panel.plot(*_points(curves.validation[measure], begin), f"C{i}.-", label=name)
        begin += curves.steps if chain else 0
    for panel, title in zip(
        panels, ["training, a token", *(f"validation: {measure}" for measure in measures)], strict=True
    ):
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(fontsize=8)
    return plot.save(figure, path)


def _points(curve: Curve, begin: int) -> tuple[list[int], list[float]]:
    steps = sorted(curve)
    return [begin + step for step in steps], [curve[step] for step in steps]


def _smooth(y: Sequence[float]) -> list[float]:
    """Average up to SMOOTH points around each: as many on either side, fewer at the ends."""
    out = []
    for i in range(len(y)):
        half = min(i, len(y) - 1 - i, SMOOTH // 2)
        near = y[i - half : i + half + 1]
        out.append(sum(near) / len(near))
    return out
