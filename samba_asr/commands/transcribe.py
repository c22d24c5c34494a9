"""`samba-asr transcribe`: transcribe audio files as text, subtitles or JSON."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr.commands.search_options import MODEL_HELP, add_settings, load_recognizer
from samba_asr.errors import UserError, printable

if TYPE_CHECKING:
    from samba_asr.recognizer import Recognizer, Result
    from samba_asr.session import Event

STREAM_LATENCY_MS = 640.0
FORMATS = ("text", "json", "srt", "vtt", "ctm", "textgrid")  # samba_asr.formats.FORMATS, by test

logger = logging.getLogger(__name__)


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "transcribe",
        help="transcribe audio files",
        description="Transcribe audio files of any format. If a file fails, its error is reported and the others continue.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio or video; - is standard input")
    parser.add_argument("--model", type=Path, metavar="DIR", help=MODEL_HELP)
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--format", default="text", choices=FORMATS, help="output format (default: text)")
    parser.add_argument("--stream", action="store_true", help="also show partial results on stderr as they change")
    parser.add_argument(
        "--latency-ms",
        type=float,
        metavar="N",
        help="ms of audio in an encoder block; the text lags by at most this.  A multiple of the model's frame, which is 40 ms "
        "in shipped models (default: 640 with --stream, else the model's longest)",
    )
    parser.add_argument(
        "--chunk-ms", type=float, metavar="N", help="ms of audio read at a time; never changes the text"
    )
    parser.add_argument(
        "--hotword",
        action="append",
        default=[],
        dest="hotwords",
        metavar="PHRASE",
        help="phrase to expect, optionally with its weight after a colon ('ANNE BRONTE :3'); repeat the option for more phrases",
    )
    add_settings(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """0; 1 if a file failed."""
    from samba_asr.decoding.hotwords import parse
    from samba_asr.formats import render
    from samba_asr.recognizer import Result

    needs = ["hotwords"] if args.hotwords else []
    recognizer = load_recognizer(args.model, args.device, args.overrides, needs=needs)
    weight = recognizer.decode.hotwords.weight
    hotwords = recognizer.hotwords(parse(args.hotwords, weight) if args.hotwords else None)
    latency = args.latency_ms if args.latency_ms is not None or not args.stream else STREAM_LATENCY_MS
    chunk = args.chunk_ms if args.chunk_ms is not None or not args.stream else latency
    recognizer.latency(latency)  # reports a wrong latency once, not once a file
    if chunk is not None and not chunk > 0:
        raise UserError(f"--chunk-ms {chunk:g} must be positive")
    failed = 0
    for file in args.files:
        show = PartialLine() if args.stream else None
        problem = ""
        try:
            events = recognizer.listen(
                file, latency_ms=latency, chunk_ms=chunk, hotwords=hotwords, partials=args.stream
            )
            result = Result.of(shown(events, show) if show else events)
        except UserError as error:
            result, problem = getattr(error, "result", None), str(error)  # text before the damage of a file
        except (OSError, MemoryError) as error:
            result, problem = None, f"{file}: {getattr(error, 'strerror', None) or 'too large for the memory'}"
        finally:
            if show:
                show.close()
        if result is not None:
            write(render(result, file, args.format), args.format)
            if not result.segments and not problem:
                print(f"samba-asr transcribe: {printable(file)}: {nothing(result, recognizer)}", file=sys.stderr)
        if problem:
            failed += 1
            print(f"samba-asr transcribe: error: {printable(problem)}", file=sys.stderr)
    if failed and len(args.files) > 1:
        print(f"samba-asr transcribe: {failed} of {len(args.files)} files failed", file=sys.stderr)
    return int(failed > 0)


def nothing(result: Result, recognizer: Recognizer) -> str:
    """Explain why there is no text."""
    if result.withheld:
        bound = recognizer.decode.endpoint.confidence
        return (
            f"{result.withheld} words were recognized, but with too little confidence to be speech: "
            f"--set decode.endpoint.confidence=0 shows them (it is {bound:g})"
        )
    if not result.duration:
        return "it has no audio"
    gate = f" (decode.vad={recognizer.decode.vad.method})" if recognizer.decode.vad.method else ""
    return f"no speech was recognized in {result.duration:.1f} s of audio{gate}"


def shown(events: Iterator[Event], show: PartialLine) -> Iterator[Event]:
    """Pass events through; every new partial or final text also goes to `show`."""
    from samba_asr.session import Final, Partial

    before = ""
    for event in events:
        text = event.segment.text if isinstance(event, Final) else event.text if isinstance(event, Partial) else before
        if text != before:
            before = text
            show(text)
        yield event


def write(text: str, form: str) -> None:
    """Write a transcript to standard output; JSON is escaped if the encoding lacks a character."""
    if form == "json":
        try:
            text.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:
            text = json.dumps(json.loads(text))
    print(text, flush=True)


class PartialLine:
    """Partial results on stderr: one line that is rewritten on a terminal, one line for each elsewhere."""

    def __init__(self):
        self.terminal, self.shown = sys.stderr.isatty(), False

    def __call__(self, text: str) -> None:
        self.shown = True
        if self.terminal:
            import shutil

            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[-width:]}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.shown and self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
