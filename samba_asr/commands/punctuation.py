"""`samba-asr punctuation`: train the network of punctuation and case, and measure it."""

from __future__ import annotations

import argparse
from pathlib import Path

from samba_asr import config as configs

DEFAULTS = (
    "train.epochs=1000",
    "train.ema=0.998",
    "train.keep_best=1",
    "optim.lr=0.003",
    "optim.warmup=200",
    "optim.weight_decay=0.02",
)


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "punctuation",
        help="train the network of punctuation and case",
        description="Train the network that writes punctuation and case.",
    )
    kinds = parser.add_subparsers(dest="punctuation", metavar="WHAT", required=True)
    add_train(kinds)
    return parser


def add_train(kinds) -> None:
    parser = kinds.add_parser(
        "train",
        help="train from text as printed",
        description="Train in --exp, or continue the run that is there, and write the network to --out.  The main settings "
        "are punctuation.*, optim.* and train.max_minutes.",
    )
    parser.add_argument(
        "text",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="text with case and marks, a paragraph a line; plain or .gz, .xz, .bz2",
    )
    parser.add_argument("--valid", type=Path, required=True, metavar="FILE", help="text to validate on, of other books")
    parser.add_argument("--exp", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as punctuation.safetensors")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], dest="overrides", metavar="key=value", help="settings"
    )
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Train; return 0, or 130 or 143 if SIGINT or SIGTERM ended training early, after saving."""
    from samba_asr.text.lm import read_lines
    from samba_asr.training.punctuation import PunctuationTask, finish
    from samba_asr.training.trainer import run

    config = configs.load(overrides=[*DEFAULTS, *args.overrides])
    task = PunctuationTask(config, read_lines(args.text), read_lines([args.valid]))
    result = run(config, args.exp, None, lambda config: task)
    if result.signal:
        return 128 + result.signal
    print(finish(config, task, args.exp, args.out))
    return 0
