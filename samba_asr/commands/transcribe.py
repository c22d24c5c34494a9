"""`samba-asr transcribe`: transcribe audio files as text, subtitles or JSON."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samba_asr.commands.search_options import MODEL_HELP, add_settings, load_recognizer
from samba_asr.commands.terminal import PartialLine, Progress
from samba_asr.commands.text_options import add_subtitles, add_text, style, wants_written
from samba_asr.errors import UserError, printable

if TYPE_CHECKING:
    from samba_asr.decoding.hotwords import Hotwords
    from samba_asr.recognizer import Recognizer
    from samba_asr.result import Result
    from samba_asr.session import Event

STREAM_LATENCY_MS = 640.0
FORMATS = ("text", "json", "srt", "vtt", "ctm", "textgrid")  # samba_asr.formats.FORMATS, by test
MOST_JOBS = 4  # without --jobs; more threads would wait for Python's lock
SINGLE = ("srt", "vtt", "textgrid")  # formats of which two files cannot stand in one


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "transcribe",
        help="transcribe audio files",
        description="Transcribe audio and video files of any format.  If a file fails, its error is reported and the others "
        "continue.",
    )
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="audio or video; a folder, with all audio in it; a quoted pattern such as 'calls/*.wav'; - is standard input",
    )
    parser.add_argument("-m", "--model", type=Path, metavar="DIR", help=MODEL_HELP)
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument(
        "-f",
        "--format",
        default=["text"],
        type=formats,
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)} or txt; several with commas, such as srt,json, need --out (default: text)",
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="write a file of each format for each input into this folder"
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="a manifest, corpus or shards in place of files: rows of JSON in --out DIR/transcripts.jsonl; it can resume",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="files at a time, in threads (default: 1; with --manifest as many as cores, at most 4)",
    )
    parser.add_argument(
        "--names",
        action=argparse.BooleanOptionalAction,
        help="print `FILE: ` before each text (default: if there are several files)",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("-q", "--quiet", action="store_true", help="show errors alone on stderr: no progress, no hints")
    shown.add_argument("-v", "--verbose", action="store_true", help="also show segments on stderr as they come")
    shown.add_argument("--stream", action="store_true", help="also show partial results on stderr as they change")
    parser.add_argument(
        "--channels",
        choices=("mix", "split"),
        default="mix",
        help="split: transcribe each channel by itself, as for a call with one speaker on each (default: mix)",
    )
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
    add_text(parser, "written; spoken for ctm and textgrid")
    add_subtitles(parser)
    parser.add_argument(
        "--alternatives",
        type=int,
        default=3,
        metavar="N",
        help="in json: so many other words at most that may have been said, of each word, with confidences, if the model has a "
        "language model (default: %(default)s)",
    )
    add_settings(parser)
    parser.set_defaults(run=run)
    return parser


def formats(text: str) -> list[str]:
    """Parse `srt,txt` to the names of formats."""
    names = ["text" if name == "txt" else name for name in text.lower().split(",")]
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r}: give one of {', '.join(FORMATS)}, or several with commas")
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Work:
    """Recognizer and options of a call, the same for all its files."""

    recognizer: Recognizer
    latency_ms: float | None
    chunk_ms: float | None
    hotwords: Hotwords | None
    args: argparse.Namespace


def run(args: argparse.Namespace) -> int:
    """0; 1 if a file failed."""
    logger = logging.getLogger("samba_asr")
    level = logger.level
    if args.quiet:
        logger.setLevel(logging.ERROR)
    try:
        return _run(args)
    finally:
        logger.setLevel(level)


def _run(args: argparse.Namespace) -> int:
    from samba_asr.audio.source import size
    from samba_asr.commands import archive
    from samba_asr.commands.files import expand, outputs
    from samba_asr.decoding.hotwords import parse
    from samba_asr.many import largest_first
    from samba_asr.threads import share, threads

    args.style = style(args)
    if args.jobs is None:
        args.jobs = min(threads(), MOST_JOBS) if args.manifest is not None else 1
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: give at least 1")
    if args.manifest is not None:
        archive.check(args)
        recognizer = load_recognizer(args.model, args.device, args.overrides)
        share(args.jobs)
        return archive.run(args, recognizer)
    for name, given in {"--stream": args.stream, "--verbose": args.verbose}.items():
        if given and args.jobs > 1:
            raise UserError(f"--jobs {args.jobs} does not go with {name}, which shows one file at a time")
    if not args.files:
        raise UserError("no files: name audio files or folders, - for standard input, or give --manifest FILE")
    files = expand(args.files)
    paths = _outputs(args, files, outputs)
    needs = ["hotwords"] if args.hotwords else []
    recognizer = load_recognizer(args.model, args.device, args.overrides, needs=needs)
    weight = recognizer.decode.hotwords.weight
    hotwords = recognizer.hotwords(parse(args.hotwords, weight) if args.hotwords else None)
    latency = args.latency_ms if args.latency_ms is not None or not args.stream else STREAM_LATENCY_MS
    chunk = args.chunk_ms if args.chunk_ms is not None or not args.stream else latency
    recognizer.latency(latency)  # reports a wrong latency once, not once a file
    if chunk is not None and not chunk > 0:
        raise UserError(f"--chunk-ms {chunk:g} must be positive")
    work = Work(recognizer, latency, chunk, hotwords, args)
    names = len(files) > 1 if args.names is None else args.names
    failed = 0
    share(args.jobs)
    found = largest_first(lambda file: transcribed(work, file), files, args.jobs, size)
    for file, places, (results, problem) in zip(files, paths, found, strict=True):
        if results is not None:
            write_all(results, file, places, args, names)
            if not any(result.segments for result in results) and not problem and not args.quiet:
                print(f"samba-asr transcribe: {printable(file)}: {nothing(results, recognizer)}", file=sys.stderr)
        if problem:
            failed += 1
            print(f"samba-asr transcribe: error: {printable(problem)}", file=sys.stderr)
    if failed and len(files) > 1:
        print(f"samba-asr transcribe: {failed} of {len(files)} files failed", file=sys.stderr)
    return int(failed > 0)


def _outputs(args: argparse.Namespace, files: Sequence[str], outputs: Any) -> Sequence[dict[str, Path]]:
    """Return the output files of each input, and make their folder; {} for standard output."""
    if args.out:
        paths = outputs(files, args.out, args.format)
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {args.out}: cannot make this folder ({error.strerror})") from None
        return paths
    if len(args.format) > 1:
        raise UserError(f"--format {','.join(args.format)}: several formats need a folder for their files: --out DIR")
    if len(files) > 1 and args.format[0] in SINGLE:
        raise UserError(
            f"{len(files)} files cannot stand in one {args.format[0]}: give a folder for the files, --out DIR"
        )
    return [{}] * len(files)


def transcribed(work: Work, file: str) -> tuple[list[Result] | None, str]:
    """Return the transcript of a file, or of each of its channels, and the problem if there is one.

    Of a damaged file, both: the text before the damage.
    """
    from samba_asr.audio.read import channels
    from samba_asr.audio.source import as_file
    from samba_asr.many import attempt

    results: list[Result] = []

    def whole() -> Result | None:
        if work.args.channels == "mix":
            return _listened(work, file, file, None)
        with contextlib.ExitStack() as stack:
            _, source, _ = as_file(file, stack)  # a pipe can be read only once
            for channel in range(1, channels(source) + 1):
                results.append(_listened(work, file, source, channel))
        return None

    last, problem = attempt(file, whole)
    if last is not None:
        results.append(last)
    return (results if last is not None or not problem else None), problem


def _listened(work: Work, file: str, source: Any, channel: int | None) -> Result:
    from samba_asr.result import Result

    args, name = work.args, printable(os.path.basename(file)) if channel is None else f"{printable(file)}, {channel}"
    partial = PartialLine() if args.stream else None
    progress = Progress(name, _duration(file), on=not (args.quiet or args.stream or args.jobs > 1))
    options = {
        "latency_ms": work.latency_ms,
        "chunk_ms": work.chunk_ms,
        "hotwords": work.hotwords,
        "on_block": progress,
        "channel": channel,
        "text": "written" if wants_written(args) else "spoken",
        "digits": not args.no_itn,
    }
    try:
        if partial and not args.verbose:
            return Result.of(shown(work.recognizer.listen(source, **options), partial))
        show = functools.partial(_show_segment, progress=progress, channel=channel) if args.verbose else lambda _: None
        return work.recognizer.transcribe(source, on_segment=show, **options)
    finally:
        progress.clear()
        if partial:
            partial.close()


def _show_segment(segment, progress: Progress, channel: int | None) -> None:
    progress.clear()
    of = f" {channel}:" if channel else ""
    print(f"[{segment.start:.2f} --> {segment.end:.2f}]{of} {segment.readable}", file=sys.stderr, flush=True)


def _duration(file: str) -> float | None:
    """Return the seconds that the header of a file promises; None if it has to be read for that, or cannot be."""
    from samba_asr.audio.read import info

    if not sys.stderr.isatty() or not os.path.isfile(file):
        return None
    try:
        return info(file).duration
    except (UserError, OSError, MemoryError):
        return None


def nothing(results: Sequence[Result], recognizer: Recognizer) -> str:
    """Explain why there is no text."""
    withheld, duration = sum(r.withheld for r in results), max(r.duration for r in results)
    if withheld:
        bound = recognizer.decode.endpoint.confidence
        return (
            f"{withheld} words were recognized, but with too little confidence to be speech: "
            f"--set decode.endpoint.confidence=0 shows them (it is {bound:g})"
        )
    if not duration:
        return "it has no audio"
    gate = f" (decode.vad={recognizer.decode.vad.method})" if recognizer.decode.vad.method else ""
    return f"no speech was recognized in {duration:.1f} s of audio{gate}"


def shown(events: Iterator[Event], show: PartialLine) -> Iterator[Event]:
    """Pass events through; every new partial or final text also goes to `show`."""
    from samba_asr.session import Final, Partial

    before = ""
    for event in events:
        text = before
        if isinstance(event, Final | Partial):
            text = event.segment.readable if isinstance(event, Final) else event.readable
        if text != before:
            before = text
            show(text)
        yield event


def write_all(
    results: Sequence[Result], file: str, places: dict[str, Path], args: argparse.Namespace, names: bool
) -> None:
    """Write a transcript in all formats: into its files, or to standard output."""
    from samba_asr.formats import render, render_channels

    for form in args.format:
        mix = args.channels == "mix"
        text = render(results[0], file, form, args.style) if mix else render_channels(results, file, form, args.style)
        if form in places:
            places[form].write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        elif names and form == "text":
            for line in text.split("\n"):
                write(f"{printable(file)}: {line}", form)
        else:
            write(text, form)


def write(text: str, form: str) -> None:
    """Write a transcript to standard output; JSON is escaped if the encoding lacks a character."""
    if form == "json":
        try:
            text.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:
            text = json.dumps(json.loads(text))
    print(text, flush=True)
