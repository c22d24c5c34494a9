"""Manifests: lists of utterances as JSONL (one utterance per line, `.jsonl` or `.jsonl.gz`) and as Kaldi folders."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from samba_asr.data.fields import NUMBERS, from_lhotse, from_record, segment
from samba_asr.errors import UserError
from samba_asr.text.lines import FAULTS, open_text


@dataclass(frozen=True)
class Utterance:
    """A stretch of speech and its transcript.

    id        unique in its manifest
    audio     path of the audio file
    text      as in the corpus; "" without a transcript
    speaker   "" if unknown
    duration  seconds, None if not measured yet
    start     seconds into the audio file
    rate      samples per second of the file, None if not measured yet
    split     the corpus's own set, such as "train" or "test"; "" if it has none
    weight    occurrences per training epoch; 0.5: every other epoch
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

    @property
    def seconds(self) -> float:
        """The duration, of an utterance that was measured (`samba_asr.data.dataset.measured`); ValueError of another."""
        if self.duration is None:
            raise ValueError(f"utterance {self.id}: its duration is not measured yet")
        return self.duration


DEFAULTS = {field.name: field.default for field in fields(Utterance)}
_TEXTS = ("id", "audio", "text", "speaker", "split")


def read_manifest(path: str | os.PathLike) -> list[Utterance]:
    """Read the utterances of a JSONL manifest, or of a JSON array of the same objects, in its order.

    Keys are the fields of `Utterance`, or other tools' names for them (`fields.py`: Hugging Face, NeMo, lhotse, ...);
    other keys are ignored.  `end` is used without a duration.  Each supervision of a lhotse cut is an utterance.
    The default `id` is the audio file's stem (and, for a part of a file, its start).  A relative `audio` is relative to the
    manifest's folder.  UserError with file:line for a bad entry.
    """
    path = Path(path)
    folder = os.path.abspath(path.parent)
    try:
        with open_text(path) as file:
            recordings = _Recordings(path)
            return [
                utterance
                for record, where in read_records(file, path)
                for utterance in _parse(recordings.joined(record), folder, where)
            ]
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest: make one with `samba-asr prepare`") from None
    except FAULTS as error:
        raise UserError(f"{path}: not a JSONL manifest ({error})") from None


def read_records(lines: Iterable[str], path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (object, its place: "file:line" or "file, entry n") of JSONL, or of one JSON array.  UserError for bad JSON."""
    lines, first = iter(lines), True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        if first and line.lstrip().startswith("["):
            try:
                entries = json.loads(line + "".join(lines))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number + error.lineno - 1}: not JSON ({error.msg})") from None
            yield from ((entry, f"{path}, entry {n}") for n, entry in enumerate(entries, 1))
            return
        first = False
        try:
            yield json.loads(line), where
        except (json.JSONDecodeError, RecursionError) as error:
            place = (
                f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
            )
            raise UserError(f"{where}: not JSON ({place})") from None


def write_manifest(path: str | os.PathLike, utterances: Iterable[Utterance]) -> None:
    """Write JSONL, without fields at their default.  The file is replaced as a whole or not at all.

    Audio paths inside the manifest's folder are relative to it, so that the folder can move; others are absolute.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.path.abspath(path.parent) + os.sep
    part = path.with_name("." + path.name)  # keeps the suffix, which chooses gzip
    with _open(part, "wt") as file:
        for utterance in utterances:
            audio = os.path.abspath(utterance.audio)
            record = asdict(replace(utterance, audio=audio.removeprefix(folder)))
            kept = {key: value for key, value in record.items() if value != DEFAULTS[key]}
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    os.replace(part, path)


def write_kaldi(folder: str | os.PathLike, utterances: Iterable[Utterance]) -> None:
    """Write Kaldi's data folder: wav.scp, text, utt2spk, spk2utt, each sorted by its key (as `LC_ALL=C sort`).

    If an utterance starts inside its file, or shares it, a `segments` file is written, with the audio paths as recordings.
    Without a speaker, the utterance's id is the speaker, as Kaldi requires.  UserError for an empty id or speaker, one with
    blanks, and a duplicate id.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    utterances = sorted(utterances, key=lambda utterance: utterance.id.encode())
    for utterance in utterances:
        for name in (utterance.id, utterance.speaker or utterance.id):
            if not name or len(name.split()) != 1:
                raise UserError(f"{folder}: Kaldi's files cannot hold {name!r}: ids and speakers must be single words")
    check_unique(utterances, folder)
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


def check_unique(utterances: Iterable[Utterance], where: object) -> None:
    """Raise UserError, with `where`, if two utterances have one id."""
    seen: set[str] = set()
    for utterance in utterances:
        if utterance.id in seen:
            raise UserError(f"{where}: the id {utterance.id!r} occurs twice: ids must be unique in a manifest")
        seen.add(utterance.id)


def id_of(audio: str) -> str:
    """Return the id of an utterance without one: its file's stem as one word."""
    return "_".join(Path(audio).stem.split())


def _end(utterance: Utterance, folder: Path) -> str:
    if utterance.duration is None:
        raise UserError(f"{folder}: segments need a duration, and {utterance.id} has none: measure durations first")
    return f"{utterance.start + utterance.duration:.6f}"


def _open(path: Path, mode: str) -> Any:
    return (gzip.open if path.suffix == ".gz" else open)(path, mode, encoding="utf-8")


class _Recordings:
    """Lhotse's recordings by id, from the manifest next to one of supervisions.  It is read when first needed."""

    def __init__(self, path: Path):
        self.path = path
        self._found: dict[str, Any] | None = None

    def joined(self, record: Any) -> Any:
        """Add its recording to a supervision, if it is found; return any other record unchanged."""
        if (
            not isinstance(record, dict)
            or "recording_id" not in record
            or {"recording", "audio", "sources"} & record.keys()
        ):
            return record
        if self._found is None:
            beside = self.path.with_name(self.path.name.replace("supervisions", "recordings"))
            self._found = {}
            if beside != self.path and beside.exists():
                with open_text(beside) as file:
                    self._found = {str(r.get("id")): r for r, _ in read_records(file, beside) if isinstance(r, dict)}
        recording = self._found.get(str(record["recording_id"]))
        return record if recording is None else {**record, "recording": recording}


def _parse(record: Any, folder: str, where: str) -> Iterator[Utterance]:
    if not isinstance(record, dict):
        raise UserError(f'{where}: a line must be one JSON object, {{"id": ..., "audio": ..., "text": ...}}')
    for found in list(from_lhotse(record)) or [from_record(record)]:
        entry = {key: value for key, value in found.items() if key == "end" or key in DEFAULTS}
        if not entry.get("audio"):
            raise UserError(f'{where}: no "audio": give the audio file\'s path')
        for key in _TEXTS:
            if key in entry and not isinstance(entry[key], str):
                raise UserError(f'{where}: "{key}" is {json.dumps(entry[key])}: give text in quotes')
        for key in NUMBERS:
            if isinstance(entry.get(key), str):
                raise UserError(f'{where}: "{key}" is {json.dumps(entry[key])}: give a number without quotes')
        yield utterance_of(segment(entry, where), folder)


def utterance_of(fields: dict[str, Any], folder: str) -> Utterance:
    """Make an utterance from checked fields.  A relative audio path is relative to `folder`; the default id is its stem."""
    start = fields.get("start", 0.0)
    id = fields.get("id") or id_of(fields["audio"]) + (f"-{start:.3f}" if start else "")
    return Utterance(**{**fields, "id": id, "audio": os.path.join(folder, fields["audio"])})
