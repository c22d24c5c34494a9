"""`samba-asr transcribe --manifest`: transcribe thousands of files into one JSONL file, and resume."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samba_asr.commands.terminal import minutes, overwrite
from samba_asr.data import plan
from samba_asr.errors import UserError, printable

if TYPE_CHECKING:
    from samba_asr.recognizer import Recognizer

DONE = "transcripts.jsonl"
PART = "transcripts.part.jsonl"  # rows in the order in which they were done
PLAN = ".plan.json"  # what a run that resumes must find unchanged


def check(args: argparse.Namespace) -> None:
    """Raise UserError for options that do not go with --manifest."""
    wrong = {
        "files": bool(args.files),
        "--stream": args.stream,
        "--verbose": args.verbose,
        "--hotword": bool(args.hotwords),
        "--channels split": args.channels == "split",
        "--format": args.format not in (["text"], ["json"]),
    }
    for name, given in wrong.items():
        if given:
            raise UserError(f"--manifest does not go with {name}: it writes rows of JSON to --out DIR/{DONE}")
    if args.out is None:
        raise UserError(f"--manifest needs a folder for {DONE}: --out DIR")


def run(args: argparse.Namespace, recognizer: Recognizer) -> int:
    """Transcribe all rows that are not done yet; 1 if a file failed."""
    from samba_asr.batch import transcribe_many
    from samba_asr.data.manifest import check_unique
    from samba_asr.data.readers import read_corpus

    utterances = read_corpus(args.manifest)
    check_unique(utterances, args.manifest)
    rows = [asdict(utterance) for utterance in utterances]
    args.out.mkdir(parents=True, exist_ok=True)
    _same_plan(args, rows)
    found = _done(args.out / PART, {row["id"] for row in rows})
    left = [row for row in rows if row["id"] not in found]
    if found:
        print(f"{len(found)} of {len(rows)} files are done already", file=sys.stderr)
    report = _Report(left, show=not args.quiet)
    with open(args.out / PART, "a", encoding="utf-8") as file:
        options = {"latency_ms": args.latency_ms, "text": args.text or "written", "digits": not args.no_itn}
        for _, row in transcribe_many(recognizer, left, jobs=args.jobs, **options):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            found[row["id"]] = row
            report.add(row)
    report.close()
    _write(args.out / DONE, [found[row["id"]] for row in rows])
    for name in (PART, PLAN):
        (args.out / name).unlink(missing_ok=True)
    print(args.out / DONE)
    return int(any(row["error"] for row in found.values()))


def _same_plan(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> None:
    """Refuse the folder of another run; accept that of this one, if it was interrupted."""
    key = [[row["id"], row["audio"], row["start"], row["duration"]] for row in rows]
    wanted = {
        "rows": hashlib.sha256(json.dumps(key).encode()).hexdigest(),
        "model": str(args.model or "english"),
        "settings": list(args.overrides),
        "latency_ms": args.latency_ms,
        "text": args.text or "written",
    }
    there = args.out / PLAN
    if there.exists():
        if found := plan.change(there, wanted):
            what = "other files" if found.key == "rows" else f"another {found.key} ({found.before})"
            raise UserError(f"{args.out}: an unfinished run with {what}: finish it, or choose another folder")
    elif (args.out / DONE).exists():
        raise UserError(f"{args.out}: holds {DONE} already: choose another folder, or delete it")
    else:
        plan.write(there, wanted)


def _done(part: Path, ids: set[str]) -> dict[str, dict[str, Any]]:
    """Return the rows of an interrupted run by id, and cut off a last line that was not written whole."""
    if not part.exists():
        return {}
    data = part.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(part, len(whole))
    rows = [json.loads(line) for line in whole.decode("utf-8").splitlines()]
    return {row["id"]: row for row in rows if row["id"] in ids}


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows in the manifest's order, at once or not at all."""
    part = path.with_name("." + path.name)
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(part, path)


class _Report:
    """Progress on a terminal, errors as they come, and one line at the end."""

    def __init__(self, rows: Sequence[dict[str, Any]], show: bool):
        self.total, self.count, self.failed, self.seconds = len(rows), 0, 0, 0.0
        self.hours = sum(row["duration"] or 0.0 for row in rows) / 3600  # 0 if the manifest does not say
        self.show, self.begun = show, time.monotonic()

    def add(self, row: dict[str, Any]) -> None:
        self.count += 1
        self.seconds += row["duration"]
        if row["error"]:
            self.failed += 1
            if self.show and sys.stderr.isatty():
                overwrite("")
            print(f"samba-asr transcribe: error: {row['id']}: {printable(row['error'])}", file=sys.stderr)
        if self.show and sys.stderr.isatty():
            overwrite(self.line())

    def line(self) -> str:
        spent = max(time.monotonic() - self.begun, 1e-3)
        share = self.seconds / 3600 / self.hours if self.hours else self.count / self.total
        left = spent * (1 - share) / share if share else 0.0
        return (
            f"{self.count} of {self.total} files, {self.seconds / 3600:.2f} h, {self.seconds / spent:.0f} times real time, "
            f"{self.failed} failed, {minutes(max(left, 0.0))} left"
        )

    def close(self) -> None:
        if self.show and sys.stderr.isatty():
            overwrite("")
        spent = max(time.monotonic() - self.begun, 1e-3)
        print(
            f"{self.count} files, {self.seconds / 3600:.2f} hours of audio in {minutes(spent)}, "
            f"{self.seconds / spent:.0f} times real time; {self.failed} failed",
            file=sys.stderr,
        )
