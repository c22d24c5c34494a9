"""The command line: `samba-asr COMMAND ...`.

Each command is a module of `samba_asr.commands` with `add_parser(subparsers)` and `run(args) -> exit status`.
Status 0: done; 1: an error that the user can mend, told in one line; 2: wrong usage; 130: interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

import samba_asr
from samba_asr.errors import UserError

COMMANDS = (
    "prepare",
    "augment",
    "pretrain",
    "train",
    "curves",
    "average",
    "decode",
    "score",
    "transcribe",
    "align",
    "explain",
    "calibrate",
    "lm",
    "serve",
    "stream",
    "mic",
    "bench",
    "doctor",
)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="samba-asr", description="Speech recognition without attention.")
    top.add_argument("--version", action="version", version=f"samba-asr {samba_asr.__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"samba_asr.commands.{name}").add_parser(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return args.run(args)
    except UserError as error:
        print(f"samba-asr {args.command}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"samba-asr {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `samba-asr ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
