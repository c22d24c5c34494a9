"""`samba-asr align`: align a known text to an audio file."""

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
        help="find the times of the words of a known text",
        description="Find the time of each word of a known text.  In the format text, each word is a line with its start and end "
        "in seconds and its confidence (1 is certain).",
    )
    parser.add_argument("audio", metavar="AUDIO", help="audio file of any format")
    parser.add_argument("text", metavar="TEXT", help="spoken text, or a file with the text; - reads standard input")
    parser.add_argument("--model", type=Path, metavar="DIR", help=MODEL_HELP)
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--format", default="text", choices=FORMATS, help="output format (default: text)")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Align; return 0.  UserError for audio that cannot be read, or a text that cannot be aligned."""
    from samba_asr.formats import render
    from samba_asr.recognizer import Recognizer

    if args.text == args.audio == "-":
        raise UserError("standard input cannot be both audio and text: give a file for one of them")
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
    """Read the file of this name; without such a file return the text itself."""
    if any(c.isspace() for c in text) or not os.path.isfile(text):
        return text
    try:
        return Path(text).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{text}: cannot read the text ({error})") from None
