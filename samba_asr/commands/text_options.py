"""Options on the form of a text: written or spoken, numbers in digits, and the layout of subtitles."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.formats import Style

TEXTS = ("written", "spoken")  # samba_asr.decoding.written.TEXTS, by test
SUBTITLES = ("srt", "vtt")
_LAYOUT = {
    "max_line_width": (int, "characters", "longest line of a subtitle (default: 42)"),
    "max_lines": (int, "N", "lines of a subtitle (default: 2)"),
    "max_cps": (float, "N", "characters a second that people can read (default: 17)"),
    "min_duration": (float, "S", "shortest subtitle in seconds, if the next one leaves the time (default: 1)"),
    "max_duration": (float, "S", "longest subtitle in seconds (default: 7)"),
}


def add_text(parser: argparse.ArgumentParser, default: str = "written") -> None:
    parser.add_argument(
        "--text",
        choices=TEXTS,
        help="written: with punctuation, case and digits; spoken: the words as they are recognized and scored "
        f"(default: {default})",
    )
    parser.add_argument("--no-itn", action="store_true", help="leave numbers of the written text in words")


def add_subtitles(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("subtitles (--format srt or vtt)")
    for name, (kind, unit, about) in _LAYOUT.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=unit, help=about)
    group.add_argument("--word-timestamps", action="store_true", help="mark the start of each word, in vtt")


def style(args: argparse.Namespace) -> Style:
    """Return the style of the formats.  UserError for limits that no subtitle can keep, and for options of other formats."""
    from samba_asr.decoding.transcript import MOST
    from samba_asr.formats import Style
    from samba_asr.subtitles import Layout

    given = {name: value for name in _LAYOUT if (value := getattr(args, name)) is not None}
    asked = ",".join(args.format)
    if given and not set(SUBTITLES) & set(args.format):
        name = next(iter(given)).replace("_", "-")
        raise UserError(f"--{name} is for subtitles: add --format srt or vtt, not {asked}")
    if args.word_timestamps and "vtt" not in args.format:
        raise UserError(f"--word-timestamps is for --format vtt, not {asked}: no other subtitles have a place for them")
    if not 0 <= args.alternatives <= MOST:
        raise UserError(f"--alternatives {args.alternatives}: give 0 (none) to {MOST}")
    return Style(args.text or "", Layout(**given), args.word_timestamps, args.alternatives)


def wants_written(args: argparse.Namespace) -> bool:
    """Return whether any of the formats needs the written form."""
    from samba_asr.formats import SPOKEN

    return args.text == "written" or (not args.text and not set(args.format) <= set(SPOKEN))
