"""Manifests: lists of utterances, as JSONL (one utterance a line, `.jsonl` or `.jsonl.gz`) and as Kaldi folders."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from samba_asr.errors import UserError


@dataclass(frozen=True)
class Utterance:
    """One stretch of speech and what is said in it.

    id        unique in its manifest
    audio     path of the audio file
    text      as the corpus writes it; "" where there is no transcript
    speaker   "" where unknown
    duration  seconds, None where not measured yet
    start     seconds into the audio file
    rate      samples a second of the file, None where not measured yet
    split     the corpus's own set, such as "train" or "test"; "" where it names none
    weight    how often an epoch of training takes it, 0.5 for every other epoch
    """

    id: str
    audio: str
    text: str = ""
    speaker: str = ""
    duration: float | None = None
    start: float = 0.0
    rate: int | None = None
    split: str = ""
    weight: float = 1.0


_DEFAULTS = {field.name: field.default for field in fields(Utterance)}
_TEXTS = ("id", "audio", "text", "speaker", "split")
_NEMO = {"audio_filepath": "audio", "offset": "start"}  # NeMo's names for the same things


def read_manifest(path: str | os.PathLike) -> list[Utterance]:
    """The utterances of a JSONL manifest, in its order.

    Keys are the fields of `Utterance`, or NeMo's `audio_filepath` and `offset`; others are ignored.  Without an
    `id`, the audio file's stem serves (and, for a part of a file, its start).  A relative `audio` is relative to the
    manifest's folder.  Raises UserError naming file:line.
    """
    path = Path(path)
    folder = os.path.abspath(path.parent)
    utterances = []
    try:
        with _open(path, "rt") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    utterances.append(_parse(line, folder, f"{path}:{number}"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest: `samba-asr prepare` makes one") from None
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, IsADirectoryError) as error:
        raise UserError(f"{path}: not a JSONL manifest ({error})") from None
    return utterances


def write_manifest(path: str | os.PathLike, utterances: Iterable[Utterance]) -> None:
    """Writes JSONL; fields at their default are left out.  Audio inside the manifest's folder is written relative
    to it, so that such a folder can move; other paths are written absolute.  Replaces the file as a whole or not
    at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.path.abspath(path.parent) + os.sep
    part = path.with_name("." + path.name)  # keeps the suffix, which chooses gzip
    with _open(part, "wt") as file:
        for utterance in utterances:
            audio = os.path.abspath(utterance.audio)
            record = asdict(replace(utterance, audio=audio.removeprefix(folder)))
            kept = {key: value for key, value in record.items() if value != _DEFAULTS[key]}
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    os.replace(part, path)


def write_kaldi(folder: str | os.PathLike, utterances: Iterable[Utterance]) -> None:
    """Writes Kaldi's data folder: wav.scp, text, utt2spk, spk2utt, each sorted by its key (as `LC_ALL=C sort`).

    An utterance that starts inside its file, or shares it, gives a `segments` file, with the audio paths as
    recordings.  Without a speaker, the utterance's id is the speaker, as Kaldi wants.  Raises UserError for an id or
    speaker that is empty or holds blanks, and for an id that occurs twice.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    utterances = sorted(utterances, key=lambda utterance: utterance.id.encode())
    seen: set[str] = set()
    for utterance in utterances:
        for name in (utterance.id, utterance.speaker or utterance.id):
            if not name or len(name.split()) != 1:
                raise UserError(f"{folder}: Kaldi's files cannot hold {name!r}: ids and speakers are words")
        if utterance.id in seen:
            raise UserError(f"{folder}: the id {utterance.id!r} occurs twice: ids are unique in a manifest")
        seen.add(utterance.id)
    paths = {utterance.id: os.path.abspath(utterance.audio) for utterance in utterances}
    segmented = len(set(paths.values())) < len(paths) or any(utterance.start for utterance in utterances)
    speakers: dict[str, list[str]] = {}
    for utterance in utterances:
        speakers.setdefault(utterance.speaker or utterance.id, []).append(utterance.id)
    tables = {
        "text": {utterance.id: " ".join(utterance.text.split()) for utterance in utterances},
        "utt2spk": {utterance.id: utterance.speaker or utterance.id for utterance in utterances},
        "spk2utt": {speaker: " ".join(ids) for speaker, ids in speakers.items()},
        "wav.scp": paths,
    }
    if segmented:
        recordings: dict[str, str] = {}  # audio path -> recording, named after its first utterance
        for utterance in utterances:
            recordings.setdefault(paths[utterance.id], f"{utterance.id}-recording")
        tables["wav.scp"] = {recording: path for path, recording in recordings.items()}
        tables["segments"] = {u.id: f"{recordings[paths[u.id]]} {u.start:.6f} {_end(u, folder)}" for u in utterances}
    else:
        (folder / "segments").unlink(missing_ok=True)
    for name, table in tables.items():
        lines = sorted((f"{key} {value}".rstrip() + "\n").encode() for key, value in table.items())
        (folder / name).write_bytes(b"".join(lines))


def id_of(audio: str) -> str:
    """The id of an utterance that has none: its file's stem, as one word."""
    return "_".join(Path(audio).stem.split())


def _end(utterance: Utterance, folder: Path) -> str:
    if utterance.duration is None:
        raise UserError(f"{folder}: segments need a duration, and {utterance.id} has none: measure durations first")
    return f"{utterance.start + utterance.duration:.6f}"


def _open(path: Path, mode: str) -> Any:
    return (gzip.open if path.suffix == ".gz" else open)(path, mode, encoding="utf-8")


def _parse(line: str, folder: str, where: str) -> Utterance:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(record, dict):
        raise UserError(f'{where}: a line is one JSON object, {{"id": ..., "audio": ..., "text": ...}}')
    record = {_NEMO.get(key, key): value for key, value in record.items()}
    record = {key: value for key, value in record.items() if key in _DEFAULTS and value is not None}
    if not record.get("audio"):
        raise UserError(f'{where}: no "audio": give the audio file\'s path')
    for key, value in record.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
        if not (isinstance(value, str) if key in _TEXTS else number):
            wanted = "text in quotes" if key in _TEXTS else "a number, not negative"
            raise UserError(f'{where}: "{key}" is {json.dumps(value)}: give {wanted}')
    if "rate" in record:
        record["rate"] = int(record["rate"])
    if not record.get("id"):
        start = float(record.get("start", 0.0))
        record["id"] = id_of(record["audio"]) + (f"-{start:.3f}" if start else "")
    record["audio"] = os.path.join(folder, record["audio"])
    return Utterance(**record)
