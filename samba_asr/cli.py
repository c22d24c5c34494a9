"""The command line: `samba-asr COMMAND ...`.

Each command is a module of `samba_asr.commands` with `add_parser(subparsers)` and `run(args) -> exit status`.
Status 0: done; 1: an error that the user can fix, reported in one line; 2: wrong usage; 130: interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import io
import logging
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence

import samba_asr
from samba_asr.commands.examples import add_examples, subcommands
from samba_asr.errors import UserError, printable

COMMANDS = (
    "prepare",
    "shard",
    "augment",
    "pretrain",
    "train",
    "finetune",
    "curves",
    "average",
    "decode",
    "score",
    "transcribe",
    "align",
    "explain",
    "calibrate",
    "lm",
    "punctuation",
    "export",
    "serve",
    "stream",
    "mic",
    "mcp",
    "push",
    "bench",
    "doctor",
)


_SETTING = re.compile(r"[A-Za-z_][\w.]*=")


def parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command line."""
    top = argparse.ArgumentParser(prog="samba-asr", description="Speech recognition without attention.")
    top.add_argument("--version", action="version", version=f"samba-asr {samba_asr.__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND")
    for name in COMMANDS:
        try:
            importlib.import_module(f"samba_asr.commands.{name}").add_parser(subparsers)
        except ModuleNotFoundError as error:  # without torch, for exported models alone: what needs it is left out
            if error.name != "torch":
                raise
    add_examples(top)
    return top


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse arguments.  Wrong ones end the process with status 2, and the nearest right one is named."""
    top, first = parser(), next(iter(argv), "")
    commands = subcommands(top)
    if first and not first.startswith("-") and first not in commands:
        near = difflib.get_close_matches(first.lower(), commands, 1)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"`samba-asr transcribe {shlex.quote(first)}` transcribes a file"
        )
        top.exit(2, f"samba-asr: error: no command {printable(first)!r}: {hint}  `samba-asr` lists all commands\n")
    args, unknown = top.parse_known_args(argv)
    if args.command is None and not unknown:
        top.print_help()
        raise SystemExit(0)
    if unknown:
        chosen = top if args.command is None else commands[args.command]
        while (below := next((word for word in argv if word in subcommands(chosen)), None)) and chosen is not top:
            chosen = subcommands(chosen)[below]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], chosen._option_string_actions, 1)
        chosen.error(f"unrecognized arguments: {' '.join(unknown)}{f' (did you mean {near[0]}?)' if near else ''}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    # numpy reads it when it is imported.  Its products are small here: a second thread costs a fifth of a file's CPU time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    args = parse(gathered(sys.argv[1:] if argv is None else argv))
    for stream in (sys.stdout, sys.stderr):  # a file name may hold any bytes, and a console any encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _check_numbers(args)
        status = args.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except UserError as error:
        _say(args.command, f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _say(args.command, "interrupted")
        return 130
    except BrokenPipeError:  # `samba-asr ... | head`
        _drop_output()
        return 0
    except OSError as error:  # a full disk, a folder that cannot be written
        where = f"{error.filename}: " if error.filename else ""
        _say(args.command, f"error: {where}{error.strerror or error}: free some space, or write to another place")
        _drop_output()
        return 1


def gathered(argv: Sequence[str]) -> list[str]:
    """Move all settings of `argv` (every `--set a=1 b=2`) to its end, as one option.

    An argument after a setting that is not `key=value` belongs to the command: `--set a=1 speech.wav` names a file.
    """
    rest, settings = [], []
    taking = first = False
    argv = list(argv)
    end = argv.index("--") if "--" in argv else len(argv)
    for text in argv[:end]:
        if text == "--set" or text.startswith("--set="):
            taking = first = text == "--set"
            settings += [] if taking else [text.removeprefix("--set=")]
        elif taking and (first or _SETTING.match(text)) and not text.startswith("-"):
            settings.append(text)
            first = False
        else:
            rest.append(text)
            taking = False
    return [*rest, *(["--set", *settings] if settings else ["--set"] if taking and first else []), *argv[end:]]


def _check_numbers(args: argparse.Namespace) -> None:
    """Raise UserError for nan and inf, which float() accepts."""
    for name, value in vars(args).items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"--{name.replace('_', '-')} {number}: give a finite number")


def _say(command: str, text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"samba-asr {command}: {printable(text)}", file=sys.stderr)


def _drop_output() -> None:
    """Discard all further output to standard output, also at the end of the process."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
