"""Transcription of archives by Ray Data: workers on one machine or on a cluster, files from disk, S3 or GCS.

    python -m samba_asr.recipes.archive INPUT --out OUT [--model M] [--workers N] [--gpus] [--cpus-per-worker N]

INPUT: a folder or pattern of audio files, a JSONL manifest, or Parquet with a column of paths or of bytes; local, or an address
that Ray reads, such as s3://bucket/calls/.  OUT: a folder of JSONL or Parquet files, with the rows of samba_asr.batch.

Ray starts the workers, moves the data and restarts what was killed.  Rows are written in parts, each at once or not at all, and a
run that is called again leaves out the ids that are written already.  So each id is written exactly once, in the end.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from samba_asr.audio import parquet
from samba_asr.batch import Transcriber
from samba_asr.commands.files import expand
from samba_asr.commands.search_options import add_settings
from samba_asr.data import plan
from samba_asr.data.manifest import check_unique
from samba_asr.data.readers import read_corpus
from samba_asr.errors import UserError, missing_extra
from samba_asr.threads import cores

logger = logging.getLogger(__name__)

PLAN = "_plan.json"  # names beginning with _ are no data to Parquet's readers
REPORT = "_report.json"
PART = 64  # rows that are written, and lost by a kill, at a time


class Worker:
    """One process with one recognizer; Ray calls it with batches of rows as columns."""

    def __init__(self, model: str | None, settings: Sequence[str], threads: int):
        import torch

        torch.set_num_threads(threads)
        self.transcribe = Transcriber(model, settings)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        names = list(batch)
        rows = [dict(zip(names, values, strict=True)) for values in zip(*(batch[name] for name in names), strict=True)]
        found = self.transcribe(_plain(row) for row in rows)
        for row in found:
            row["words"] = json.dumps(row["words"], ensure_ascii=False)  # Ray cannot tell the type of an empty list
        return {name: [row[name] for row in found] for name in found[0]} if found else {}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with Python's numbers for numpy's, and None for NaN, which marks a missing value in a table."""
    plain = {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}
    return {key: None if isinstance(value, float) and value != value else value for key, value in plain.items()}


def run(
    source: str,
    out: str,
    *,
    model: str | None = None,
    settings: Sequence[str] = (),
    form: str = "jsonl",
    workers: int = 2,
    gpus: float = 0.0,
    cpus: float = 1.0,
) -> dict[str, Any]:
    """Transcribe all that is not written yet; return the report: files, hours, seconds, times real time, failed.

    workers: processes.  cpus, gpus: of each, as Ray counts them; fractions share a GPU.  form: jsonl or parquet.
    UserError for an input without audio, and for an `out` that holds another run.
    """
    if form not in ("jsonl", "parquet"):
        raise UserError(f"--format {form!r}: give jsonl or parquet")
    if workers < 1 or cpus <= 0 or gpus < 0:
        raise UserError(f"workers={workers}, cpus={cpus}, gpus={gpus}: give positive numbers")
    try:
        import ray.data
    except ImportError:
        raise missing_extra("ray", "ray") from None

    folder = Path(out)
    _start(ray, workers * cpus)
    rows = _rows(ray, source)
    _same_plan(folder, {"source": source, "model": model or "english", "settings": list(settings), "format": form})
    done = {row["id"] for row in written(folder)}
    if done:
        rows = rows.filter(_NotIn(done))
    begun = time.monotonic()
    data = rows.map_batches(
        Worker,
        fn_constructor_args=(model, tuple(settings), max(1, round(cpus))),
        batch_size=1,  # a killed worker loses one file
        compute=ray.data.ActorPoolStrategy(size=workers),  # killed actors are started again, and their rows repeated
        num_cpus=cpus,
        num_gpus=gpus or None,
    )
    number = len(list(folder.glob("part-*")))
    part: list[dict[str, Any]] = []
    for row in data.iter_rows():
        part.append({**row, "words": json.loads(row["words"])})
        if len(part) == PART:
            _write(folder, number, part, form)
            number, part = number + 1, []
    if part:
        _write(folder, number, part, form)
    found = list(written(folder))
    seconds = sum(row["duration"] for row in found)
    spent = time.monotonic() - begun
    new = sum(row["duration"] for row in found if row["id"] not in done)
    report = {
        "files": len(found),
        "hours": round(seconds / 3600, 4),
        "new_files": len(found) - len(done),
        "seconds": round(spent, 1),
        "times_real_time": round(new / spent, 1),
        "failed": sorted(row["id"] for row in found if row["error"]),
    }
    (folder / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


def _start(ray: Any, held: float) -> None:
    """Start Ray on this machine, or join the cluster of RAY_ADDRESS.

    held: processors that the workers hold.  Ray's tasks that list, read and filter need one more, or the run waits for ever.
    """
    if not ray.is_initialized():
        if os.environ.get("RAY_ADDRESS"):
            ray.init()
        else:  # these tasks take little time: here the one more need not exist
            ray.init(num_cpus=max(cores(), math.ceil(held) + 1), include_dashboard=False)
    there = ray.cluster_resources().get("CPU", 0.0)
    if there < held + 1:
        logger.warning(
            "the workers hold %g of %g processors and Ray itself needs one: unless the cluster grows, lower --workers or --cpus",
            held,
            there,
        )


class _NotIn:
    """Filter for Ray: keeps the rows that are still to be done."""

    def __init__(self, done: Iterable[str]):
        self.done = frozenset(done)

    def __call__(self, row: Mapping[str, Any]) -> bool:
        return row["id"] not in self.done


def _rows(ray: Any, source: str) -> Any:
    """Return a Ray dataset with the columns id and audio, and start and duration where a manifest has them."""
    remote = "://" in source
    if source.endswith((".parquet", ".parquet/")) or (
        not remote and Path(source).is_dir() and any(Path(source).glob("*.parquet"))
    ):
        table = ray.data.read_parquet(source)
        names = set(table.schema().names)
        if "audio" not in names:
            raise UserError(f"{source}: no column `audio` of paths or bytes among {', '.join(sorted(names))}")
        return table.map(_of_table)
    if remote:
        return ray.data.read_binary_files(source, include_paths=True).map(
            lambda row: {"id": row["path"], "audio": row["bytes"]}
        )
    path = Path(source)
    if path.is_dir() and not any(path.glob("*.jsonl")):
        return ray.data.from_items([{"id": name, "audio": name} for name in expand([source])])
    utterances = read_corpus(path)
    check_unique(utterances, source)
    return ray.data.from_items(
        [{"id": u.id, "audio": u.audio, "start": u.start, "duration": u.duration} for u in utterances]
    )


def _of_table(row: Mapping[str, Any]) -> dict[str, Any]:
    audio = row["audio"]
    if isinstance(audio, Mapping):  # Hugging Face's {bytes, path}
        path, audio = audio.get("path"), audio.get("bytes") or audio.get("path")
    else:
        path = audio if isinstance(audio, str) else None
    id = row.get("id") or path
    if not id:
        raise UserError("a table of bytes needs a column `id`, or paths, to know what is done")
    return {"id": str(id), "audio": audio}


def written(folder: Path) -> Iterable[dict[str, Any]]:
    """Yield the rows that are written in an output folder."""
    for path in sorted(folder.glob("part-*.jsonl")):
        yield from (json.loads(line) for line in path.read_text("utf-8").splitlines())
    for path in sorted(folder.glob("part-*.parquet")):
        yield from parquet.rows(path)


def _write(folder: Path, number: int, rows: Sequence[Mapping[str, Any]], form: str) -> None:
    """Write one part, under its name when it is whole."""
    path = folder / f"part-{number:06d}.{form}"
    hidden = path.with_name("_" + path.name)
    if form == "jsonl":
        hidden.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        parquet.write(hidden, rows, {"words": {"word": str, "start": float, "end": float, "confidence": float}})
    hidden.replace(path)


def _same_plan(folder: Path, wanted: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    there = folder / PLAN
    if there.exists():
        if found := plan.change(there, wanted):
            raise UserError(
                f"{folder}: holds a run with {found.key}={found.before!r}, not {wanted[found.key]!r}: "
                "choose another folder"
            )
    elif any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty, and no output of this recipe: choose another folder")
    else:
        plan.write(there, wanted)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipe; 1 if files failed or the user can mend something."""
    parser = argparse.ArgumentParser(prog="samba_asr.recipes.archive", description="Transcribe an archive by Ray Data.")
    parser.add_argument("source", metavar="INPUT", help="folder, pattern, manifest, Parquet; local or s3://...")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the rows")
    parser.add_argument("--model", metavar="DIR", help="model folder or name (default: english)")
    parser.add_argument("--format", default="jsonl", help="jsonl or parquet (default: jsonl)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default: 2)")
    parser.add_argument("--cpus", type=float, default=1.0, metavar="N", help="processors of each (default: 1)")
    parser.add_argument("--gpus", type=float, default=0.0, metavar="N", help="GPUs of each, such as 0.25 (default: 0)")
    add_settings(parser)
    args = parser.parse_args(argv)
    try:
        report = run(
            args.source,
            args.out,
            model=args.model,
            settings=args.overrides,
            form=args.format,
            workers=args.workers,
            cpus=args.cpus,
            gpus=args.gpus,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return int(bool(report["failed"]))


if __name__ == "__main__":
    sys.exit(main())
