"""`samba-asr score`: compute the word error rate of transcripts, with its interval."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from samba_asr.data.fields import NAMES as NAMES_OF
from samba_asr.data.fields import from_record
from samba_asr.data.manifest import id_of
from samba_asr.data.tables import table_records
from samba_asr.errors import UserError, to_install
from samba_asr.metrics.report import plot_breakdown, write_report
from samba_asr.metrics.wer import WerReport, bootstrap, compare, score
from samba_asr.text.lines import FAULTS, open_text
from samba_asr.text.normalize import NAMES, lost, normalizer


class TranscriptLine(NamedTuple):
    """A line of a transcript file."""

    id: str
    text: str
    speaker: str = ""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "score",
        help="compute the word error rate of transcripts",
        description=(
            "Compare transcripts by utterance id. The suffix of a file is its format: .trn (words (speaker-utterance)), "
            ".jsonl (a manifest: id, text, optional speaker), .csv or .tsv (a table of the same). Any other suffix is a Kaldi "
            "text file (id words)."
        ),
    )
    parser.add_argument("files", type=Path, nargs="*", metavar="REF HYP", help="reference texts, then recognized texts")
    parser.add_argument("--ref", type=Path, metavar="FILE", help="reference texts")
    parser.add_argument("--hyp", type=Path, metavar="FILE", help="recognized texts")
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="texts of another system: also compare --hyp with it, on the same bootstrap samples",
    )
    parser.add_argument(
        "--normalize", choices=NAMES, default="none", help="rules for both texts (default: %(default)s)"
    )
    parser.add_argument("--cer", action="store_true", help="score characters, spaces included, not words")
    parser.add_argument("--utt2spk", type=Path, metavar="FILE", help="speakers (id speaker); overrides those of --ref")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="samples for the interval, 0: none")
    parser.add_argument(
        "--by-speaker", action="store_true", help="resample whole speakers for the interval, not utterances"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write alignments, .trn files, confusions and a plot to this folder"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print Kaldi's lines, the interval and remarks; return 0."""
    _take_files(args)
    if args.bootstrap < 0:
        raise UserError(f"--bootstrap {args.bootstrap}: give the number of samples, or 0 for no interval")
    rules = normalizer(args.normalize)
    references = read_transcripts(args.ref)
    speakers = {line.id: line.speaker for line in references.values() if line.speaker}
    if args.utt2spk:
        speakers |= {line.id: line.text for line in read_transcripts(args.utt2spk).values()}
    texts = {line.id: rules(line.text) for line in references.values()}
    remarks = list(_remarks(args.normalize, references, texts, args.ref))

    def scored(path: Path) -> WerReport:
        hypotheses = read_transcripts(path)
        if hypotheses and not texts.keys() & hypotheses.keys():
            raise UserError(
                f"no id of {path} (such as {next(iter(hypotheses))!r}) is in {args.ref} "
                f"(such as {next(iter(texts), None)!r}): give files of the same utterances"
            )
        recognized = {line.id: rules(line.text) for line in hypotheses.values()}
        remarks.extend(_remarks(args.normalize, hypotheses, recognized, path))
        return score(texts, recognized, speakers=speakers, unit="character" if args.cer else "word")

    report = scored(args.hyp)
    other = scored(args.baseline) if args.baseline else None
    for line in [*report.kaldi_lines(), *_more_lines(report, args), *remarks, *_compared(report, other, args)]:
        print(line)
    if args.out:
        write_report(report, args.out)
        if importlib.util.find_spec("matplotlib"):
            plot_breakdown(report, args.out / "wer.png")
        else:
            print(f"no plot: {to_install('plot')}")
    return 0


def _take_files(args: argparse.Namespace) -> None:
    """Set --ref and --hyp by the arguments without a name.  UserError unless there are one of each then."""
    named = [name for name in ("ref", "hyp") if getattr(args, name)]
    if len(args.files) + len(named) != 2:
        raise UserError("give two files, the reference texts and the recognized texts: samba-asr score ref.txt hyp.txt")
    for name, file in zip([name for name in ("ref", "hyp") if name not in named], args.files, strict=True):
        setattr(args, name, file)


def _more_lines(report: WerReport, args: argparse.Namespace) -> Iterator[str]:
    if args.bootstrap:
        low, high = bootstrap(report, args.bootstrap, by_speaker=args.by_speaker)
        drawn = "speakers" if args.by_speaker else "utterances"
        yield f"95 % interval [ {100 * low:.2f}, {100 * high:.2f} ], {args.bootstrap} samples of {drawn}"
    yield f"normalized by: {args.normalize}"
    if report.unknown:
        yield f"not scored: {len(report.unknown)} ids of {args.hyp} are not in {args.ref}, such as {report.unknown[0]}"


def _remarks(name: str, lines: dict[str, TranscriptLine], ruled: dict[str, str], path: Path) -> Iterator[str]:
    """Yield remarks on digits and other scripts that the rules dropped or kept."""
    dropped = [line.id for line in lines.values() if lost(line.text, ruled[line.id])]
    if dropped:
        yield f"{path}: {name} dropped digits or letters of {len(dropped)} texts, such as {dropped[0]}: they are not scored"
    digits = [id for id, text in ruled.items() if any(c.isdigit() for c in text)]
    if name == "upper" and digits:
        yield f"{path}: digits are scored as written in {len(digits)} texts, such as {digits[0]}"


def _compared(report: WerReport, other: WerReport | None, args: argparse.Namespace) -> Iterator[str]:
    if other is None:
        return
    yield f"{args.baseline}: {other.kaldi_lines()[0]}"
    if args.bootstrap:
        found = compare(report, other, args.bootstrap, by_speaker=args.by_speaker)
        yield (
            f"difference {100 * found.difference:+.2f}, 95 % interval [ {100 * found.low:+.2f}, {100 * found.high:+.2f} ]; "
            f"{args.hyp} is better in {100 * found.better:.1f} % of the samples"
        )


def read_transcripts(path: Path) -> dict[str, TranscriptLine]:
    """Read the lines of a transcript file by id, in order; a UserError names the file and the wrong line."""
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    parse = {".trn": _trn, ".jsonl": _jsonl, ".json": _jsonl}.get(suffixes[-1] if suffixes else "", _kaldi)
    lines: dict[str, TranscriptLine] = {}
    try:
        for line, where in _table(path) if suffixes[-1:] in ([".csv"], [".tsv"]) else _lines(path, parse):
            if line.id in lines:
                raise UserError(f"{where}: id {line.id!r} occurs twice; ids are unique in a file")
            lines[line.id] = line
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except FAULTS as error:
        raise UserError(f"{path}: cannot read it ({getattr(error, 'strerror', None) or error})") from error
    return lines


def _lines(path: Path, parse: Callable[[str], TranscriptLine]) -> Iterator[tuple[TranscriptLine, str]]:
    with open_text(path) as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                where = f"{path}:{number}"
                yield _parsed(parse, text, where), where


def _table(path: Path) -> Iterator[tuple[TranscriptLine, str]]:
    for where, cells in table_records(path, "text"):
        id = cells.get("id") or id_of(cells.get("audio", ""))
        if not id:
            raise UserError(f"{where}: no id, and no audio path to make one from: name one of the columns `id`")
        yield TranscriptLine(id, cells.get("text", ""), cells.get("speaker", "")), where


def _parsed(parse: Callable[[str], TranscriptLine], text: str, where: str) -> TranscriptLine:
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _kaldi(text: str) -> TranscriptLine:
    name, *words = text.split(maxsplit=1)
    return TranscriptLine(name, words[0].strip() if words else "")


def _trn(text: str) -> TranscriptLine:
    """Parse a .trn line; the speaker is the part of the id before the first hyphen, as in sclite."""
    found = re.fullmatch(r"(.*)\(([^()\s]+)\)\s*", text.rstrip("\n"))
    if not found:
        raise ValueError(f"not a .trn line, `words (speaker-utterance)`: {text.strip()!r}")
    name = found[2]
    return TranscriptLine(name, found[1].strip(), name.partition("-")[0] if "-" in name else "")


def _jsonl(text: str) -> TranscriptLine:
    try:
        entry = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(entry, dict):
        raise ValueError('a line needs "id" and "text" in one JSON object, {"id": ..., "text": ...}')
    found = from_record(entry)
    if "id" not in found and isinstance(found.get("audio"), str):
        found["id"] = id_of(found["audio"])
    fields = [found.get(key, "") for key in ("id", "text", "speaker")]
    has_text = "text" in found or any(str(key).strip().lower() in NAMES_OF["text"] for key in entry)
    if not all(isinstance(field, str) for field in fields) or not fields[0] or not has_text:
        raise ValueError('a line needs "id" and "text" (and may have "speaker"), all of them strings')
    return TranscriptLine(*fields)
