"""Readers of shards: tar files of WebDataset, NeMo and lhotse Shar, and Parquet tables of Hugging Face.

An utterance keeps the address of its audio in the shard (samba_asr.audio.archive), so nothing is unpacked, and the sampler
draws from shards as it does from files: any order, the same after a resume.

layout                  audio                          text and other fields
WebDataset              members `KEY.flac`             members `KEY.txt`, or `KEY.json` with keys as in `fields.py`
NeMo, tarred            members of `audio_*.tar`       `tarred_audio_manifest.json`, by the member's name
lhotse Shar             members of `recording.*.tar`   `cuts.*.jsonl.gz`, in the same order
Parquet                 a column of bytes              the other columns, named as in `fields.py`

A shard that breaks off, or cannot be read, costs its utterances: it is named in a warning, and the others remain.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from samba_asr.audio import parquet
from samba_asr.audio.archive import Row, Slice
from samba_asr.data.fields import NUMBERS, from_lhotse, from_record, segment
from samba_asr.data.manifest import DEFAULTS, Utterance, id_of, read_records
from samba_asr.errors import UserError, printable
from samba_asr.text.lines import FAULTS, open_text

log = logging.getLogger(__name__)

SOUNDS = (".flac", ".wav", ".opus", ".ogg", ".mp3", ".m4a", ".aac", ".webm", ".mp4", ".sph")
NEMO = "tarred_audio_manifest.json"
_TEXT = 1 << 20  # bytes of a text member, at most


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int  # of its first byte in the tar
    size: int
    text: bytes | None  # its contents, for .txt and .json


def is_shards(path: Path) -> bool:
    """Return whether `path` is a shard, or a folder that holds some and no manifest of ours."""
    if path.is_file():
        return path.name.lower().endswith((".tar", ".parquet"))
    return any(_shards(path))


def read_shards(path: Path) -> list[Utterance]:
    """Read the shards at `path`, a file or a folder with its subfolders, in the order of their names.

    UserError for a compressed tar, in which nothing can be found without unpacking all before it.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (folder / NEMO).exists():
        return list(_nemo(folder))
    if path.is_dir() and (cuts := sorted(folder.glob("cuts.*.jsonl*"))):
        return [utterance for file in cuts for utterance in _shar(file)]
    found = list(_shards(path)) if path.is_dir() else [path]
    return [u for shard in found for u in (_parquet(shard) if shard.suffix == ".parquet" else _webdataset(shard))]


def _shards(folder: Path) -> Iterator[Path]:
    for shard in sorted(folder.rglob("*")):
        if shard.name.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
            raise UserError(f"{shard}: a compressed tar cannot be read at random: unpack it to .tar first")
        if shard.suffix.lower() in (".tar", ".parquet") and shard.is_file():
            yield shard


# ---- tar -------------------------------------------------------------------------------------------------------------


def members(shard: Path) -> Iterator[Member]:
    """Yield the regular files of a tar, in order.  At damage, a warning names the shard and the place, and it ends."""
    size = shard.stat().st_size
    at = 0
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                if not info.isreg() or info.issparse():
                    continue
                at = info.offset_data
                if at + info.size > size:
                    raise tarfile.ReadError(f"{info.name} goes on after the end of the file")
                name, text = info.name, None
                if name.lower().endswith((".txt", ".json")):
                    if info.size > _TEXT:
                        raise tarfile.ReadError(f"{name} has {info.size} bytes, a text at most {_TEXT}")
                    file = tar.extractfile(info)
                    text = file.read() if file else b""
                yield Member(name, at, info.size, text)
                setattr(tar, "members", [])  # noqa: B010  (tarfile keeps all that it has seen)
    except (tarfile.TarError, OSError, EOFError) as error:
        log.warning("%s: broken at byte %d (%s): what follows is left out", shard, at, printable(str(error)))


def _key(name: str) -> tuple[str, str]:
    """Split a member's name as WebDataset does: at the first dot of its last part."""
    folder, _, last = name.rpartition("/")
    stem, dot, kind = last.partition(".")
    return (f"{folder}/{stem}" if folder else stem), (dot + kind).lower()


def _webdataset(shard: Path) -> Iterator[Utterance]:
    """Yield one utterance for each sound; members of one key stand next to each other."""
    parts: dict[str, Member] = {}
    key = None
    lonely: list[str] = []
    seen: set[str] = set()
    for member in [*members(shard), None]:
        now, kind = _key(member.name) if member else (None, "")
        if now != key:
            if key is not None:
                found = _joined(shard, key, parts)
                if found is None or key in seen:
                    lonely.append(key)
                else:
                    yield found
                seen.add(key)
            key, parts = now, {}
        if member:
            parts[kind] = member
    if lonely:
        log.warning(
            "%s: %d keys have no sound or stand in two places, such as %s: left out", shard, len(lonely), lonely[0]
        )


def _joined(shard: Path, key: str, parts: dict[str, Member]) -> Utterance | None:
    sound = next((parts[kind] for kind in parts if "." + kind.rpartition(".")[2] in SOUNDS), None)
    if sound is None:
        return None
    fields: dict[str, Any] = {}
    if (found := parts.get(".json")) and found.text:
        where = f"{shard}, {found.name}"
        try:
            record = json.loads(found.text)
        except (ValueError, RecursionError):
            raise UserError(f"{where}: not JSON: write the shard again") from None
        fields = _fields(record, where) if isinstance(record, dict) else {}
    if (found := parts.get(".txt")) and found.text is not None:
        try:
            fields["text"] = found.text.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise UserError(f"{shard}, {found.name}: not UTF-8: write the shard again") from None
    return _utterance(fields, str(Slice(os.path.abspath(shard), sound.offset, sound.size)), key)


def _fields(record: dict[str, Any], where: str) -> dict[str, Any]:
    """Return our fields of a JSON object, without its audio, which the shard holds."""
    found = {
        key: value for key, value in from_record(record).items() if key in (*DEFAULTS, *NUMBERS) and key != "audio"
    }
    for key in ("id", "text", "speaker", "split"):
        if key in found and not isinstance(found[key], str):
            raise UserError(f'{where}: "{key}" is {json.dumps(found[key])}: give text in quotes')
    return segment(found, where)


def _utterance(fields: dict[str, Any], audio: str, key: str) -> Utterance:
    fields = {name: value for name, value in fields.items() if name in DEFAULTS}
    return Utterance(**{**fields, "id": fields.get("id") or id_of(key), "audio": audio})


def _nemo(folder: Path) -> Iterator[Utterance]:
    """Yield NeMo's utterances.  Its manifest names members; `shard_id` numbers the tars, `audio_0.tar` and so on."""
    places: dict[tuple[int | None, str], str] = {}
    for shard in sorted(folder.glob("*.tar")):
        number = re.search(r"(\d+)\.tar$", shard.name)
        for member in members(shard):
            address = str(Slice(os.path.abspath(shard), member.offset, member.size))
            places[(int(number[1]) if number else None), member.name] = address
            places.setdefault((None, member.name), address)
    lost: list[str] = []
    path = folder / NEMO
    with open_text(path) as file:
        for record, where in read_records(file, path):
            name = str(from_record(record).get("audio", ""))
            # parts of one file are `name-sub1.wav`, `name-sub2.wav` in the manifest, and `name.wav` in the tar
            names = (name, re.sub(r"-sub\d+(?=\.\w+$)", "", name))
            shard_id = record.get("shard_id")
            audio = next((places[k, n] for k in (shard_id, None) for n in names if (k, n) in places), None)
            if audio is None:
                lost.append(name)
                continue
            yield _utterance(_fields(record, where), audio, name.rpartition(".")[0] or name)
    if lost:
        log.warning("%s: %d utterances are in no shard, such as %s: left out", path, len(lost), lost[0])


def _shar(cuts: Path) -> Iterator[Utterance]:
    """Yield the cuts of one shard of lhotse Shar.  A tar holds the sound of each cut alone, so it starts at 0."""
    number = cuts.name.split(".")[1]
    shard = cuts.with_name(f"recording.{number}.tar")
    if not shard.exists():
        log.warning("%s: there is no %s: left out", cuts, shard.name)
        return
    sounds = {}
    for member in members(shard):
        key, kind = _key(member.name)
        if kind in SOUNDS:
            sounds[key] = str(Slice(os.path.abspath(shard), member.offset, member.size))
    lost: list[str] = []
    try:
        with open_text(cuts) as file:
            for record, where in read_records(file, cuts):
                id = str(record.get("id", ""))
                audio = sounds.get(id) or sounds.get(_key(id)[0])
                if audio is None:
                    lost.append(id)
                    continue
                begin = record.get("start") or 0.0
                for fields in from_lhotse(record):
                    fields = segment({**fields, "audio": audio}, where)
                    fields["start"] = round(max(0.0, fields.get("start", 0.0) - begin), 6)
                    yield _utterance(fields, audio, id)
    except FAULTS as error:
        log.warning("%s: broken (%s): what follows is left out", cuts, error)
    if lost:
        log.warning("%s: %d cuts have no sound in %s, such as %s: left out", cuts, len(lost), shard.name, lost[0])


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def _parquet(shard: Path) -> Iterator[Utterance]:
    """Yield the rows of a table with a column of audio bytes, Hugging Face's `audio` = {bytes, path} or plain bytes."""
    try:
        columns = parquet.columns(shard)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        log.warning("%s: not a whole Parquet file (%s): left out", shard, " ".join(str(error).split())[:200])
        return
    named = ", ".join(column.name for column in columns)
    sound = next((column.name for column in columns if column.sound), None)
    if sound is None:
        raise UserError(
            f"{shard}: no column of audio bytes among {named}: embed the files "
            "(Hugging Face's column `audio` with `bytes`), or give a manifest of paths"
        )
    rest = [column.name for column in columns if not column.sound and not column.nested]
    if not from_record(dict.fromkeys(rest, "x")).get("text"):
        raise UserError(f"{shard}: no column of texts among {named}: name it `text`")
    for row, record in enumerate(parquet.rows(shard, rest)):
        address = str(Row(os.path.abspath(shard), sound, row))
        yield _utterance(_fields(record, f"{shard}, row {row}"), address, f"{shard.stem}-{row}")
