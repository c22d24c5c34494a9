"""`samba-asr align`: where each word of a known text is spoken in an audio file."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from samba_asr.commands.search_options import MODEL_HELP
from samba_asr.commands.transcribe import FORMATS, write
from samba_asr.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "align",
        help="a known text to the times of its words",
        description="Find where each word of a known text is spoken.  As text: a line a word, with its start and end in "
        "seconds and how sure the model is that it is spoken there (1 is certain).",
    )
    parser.add_argument("audio", metavar="AUDIO", help="an audio file of any format")
    parser.add_argument(
        "text", metavar="TEXT", help="what is spoken in it, or a file that holds that; - reads standard input"
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help=MODEL_HELP)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--format", default="text", choices=FORMATS, help="default: text")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """0; UserError for audio that cannot be read, or a text that cannot be aligned."""
    from samba_asr.formats import render
    from samba_asr.recognizer import Recognizer

    if args.text == args.audio == "-":
        raise UserError("standard input is audio or text, not both: name a file for one of them")
    text = sys.stdin.read() if args.text == "-" else _read(args.text)
    recognizer = Recognizer.load(args.model, device=args.device)
    result = recognizer.align(args.audio, text)
    if args.format != "text":
        write(render(result, args.audio, args.format), args.format)
        return 0
    for word in result.words:
        print(f"{word.start:8.2f} {word.end:8.2f}  {word.confidence:.2f}  {word.text}")
    return 0


def _read(text: str) -> str:
    """The content of the file of this name, or the text itself."""
    if any(c.isspace() for c in text) or not os.path.isfile(text):
        return text
    try:
        return Path(text).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{text}: cannot read the text ({error})") from None
