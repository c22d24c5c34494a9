"""Writer of tar shards in WebDataset's layout: a corpus of many small files, or of tables, as a few large files.

    OUT/000000.tar  000001.tar ...     members KEY.flac (or the file as it was) and KEY.json: id, text, speaker, ...
    OUT/manifest.jsonl                 the utterances by their addresses (samba_asr.audio.archive)

A shard appears under its name when it is whole.  A run that was interrupted begins with the shard that is missing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from samba_asr.audio.archive import Row, Slice, open_address, parse
from samba_asr.audio.read import Audio, AudioError, read
from samba_asr.data import plan
from samba_asr.data.manifest import DEFAULTS, Utterance, check_unique, read_manifest, write_manifest
from samba_asr.data.shards import SOUNDS
from samba_asr.errors import UserError

MANIFEST = "manifest.jsonl"
PLAN = ".shards.json"  # what an interrupted run must find unchanged
_WHOLE = 0.01  # seconds by which an utterance may be shorter than its file, to be copied as it is


class Written(NamedTuple):
    """Result of `write_shards`."""

    manifest: Path
    shards: int
    utterances: int
    lost: list[tuple[str, str]]  # id and reason of utterances whose audio could not be read


def write_shards(
    utterances: Sequence[Utterance],
    out: Path,
    *,
    size: int = 512 << 20,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write the utterances, in their order, to shards of about `size` bytes each.

    A whole file is copied byte by byte; a part of a file is written as FLAC of 16 bits.  Utterances that cannot be read are
    left out and returned.  UserError for ids that occur twice, and if `out` holds other shards or another manifest.
    progress: (utterances done, in total).
    """
    if not utterances:
        raise UserError("no utterances: there is nothing to write")
    if size < 1:
        raise UserError(f"shards of {size} bytes: give at least 1")
    check_unique(utterances, out)
    out.mkdir(parents=True, exist_ok=True)
    _same_plan(utterances, out, size)
    found: list[Utterance] = []
    lost: list[tuple[str, str]] = []
    done = number = 0
    while done < len(utterances):
        shard, listed = out / f"{number:06d}.tar", out / f".{number:06d}.jsonl"
        if shard.exists() and listed.exists():
            part, taken = read_manifest(listed), json.loads((out / f".{number:06d}.json").read_text("utf-8"))
        else:
            part, taken = _write_shard(utterances[done:], shard, size)
            write_manifest(listed, part)
            (out / f".{number:06d}.json").write_text(json.dumps(taken), encoding="utf-8")
            os.replace(out / f"{shard.name}.part", shard)
        found += part
        lost += [(id, why) for id, why in taken["lost"]]
        done += taken["count"]
        number += 1
        progress(done, len(utterances))
    if not found:
        raise UserError(f"{out}: no utterance could be read (first: {lost[0][0]}: {lost[0][1]})")
    write_manifest(out / MANIFEST, found)
    for name in (PLAN, *(f".{n:06d}.json{end}" for n in range(number) for end in ("", "l"))):
        (out / name).unlink(missing_ok=True)
    return Written(out / MANIFEST, number, len(found), lost)


def _same_plan(utterances: Sequence[Utterance], out: Path, size: int) -> None:
    """Refuse a folder with the shards of another run; keep those of this run, if it was interrupted."""
    wanted = {"size": size, "utterances": [[u.id, u.audio, u.start, u.duration, u.text] for u in utterances]}
    there = out / PLAN
    if there.exists():
        if plan.change(there, wanted):
            raise UserError(f"{out}: holds part of the shards of another manifest: choose another folder, or delete it")
    elif any(out.glob("*.tar")):
        raise UserError(f"{out}: holds shards already: choose another folder, or delete them")
    elif (out / MANIFEST).exists():
        raise UserError(f"{out}: holds a {MANIFEST} that shards would replace: choose another folder")
    else:
        plan.write(there, wanted)


def _write_shard(utterances: Sequence[Utterance], shard: Path, size: int) -> tuple[list[Utterance], dict]:
    """Write one shard to SHARD.part; return its utterances, and how many of the given ones were used."""
    found: list[Utterance] = []
    lost: list[tuple[str, str]] = []
    count = 0
    with tarfile.open(f"{shard}.part", "w", format=tarfile.PAX_FORMAT) as tar:
        for utterance in utterances:
            if tar.offset >= size and found:
                break
            count += 1
            try:
                data, kind, whole = _sound(utterance)
            except AudioError as error:
                lost.append((utterance.id, str(error)))
                continue
            key = f"{count:06d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', utterance.id)[:80]}"
            kept = replace(utterance, start=0.0) if not whole else utterance
            record = {k: v for k, v in asdict(kept).items() if v != DEFAULTS[k] and k != "audio"}
            offset = _add(tar, key + kind, data)
            _add(tar, key + ".json", json.dumps(record, ensure_ascii=False).encode())
            found.append(replace(kept, audio=str(Slice(os.path.abspath(shard), offset, len(data)))))
    return found, {"count": count, "lost": lost}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member without date and owner, so that equal corpora give equal shards; return the offset of its data."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))
    setattr(tar, "members", [])  # noqa: B010  (tarfile keeps all that it has written)
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _sound(utterance: Utterance) -> tuple[bytes, str, bool]:
    """Return the bytes of the audio, the suffix of its name, and whether they are those of its file."""
    address, kind = parse(utterance.audio), Path(utterance.audio).suffix.lower()
    if utterance.start == 0 and (address or kind in SOUNDS):
        data = _bytes(utterance.audio, address)
        audio = read(data)
        if utterance.duration is None or audio.duration - utterance.duration < _WHOLE:
            return data, kind if kind in SOUNDS else _kind_of(data), True
    audio = read(utterance.audio, start=utterance.start, duration=utterance.duration)
    return _flac(audio), ".flac", False


def _bytes(path: str, address: Slice | Row | None) -> bytes:
    with contextlib.ExitStack() as stack:
        if address:
            return open_address(address, stack)[1].read()
        try:
            return stack.enter_context(open(path, "rb")).read()
        except OSError as error:
            raise AudioError(f"{path}: cannot be opened ({error.strerror}): check the file") from None


def _kind_of(data: bytes) -> str:
    """Return the suffix for the bytes of a file without a name; readers look at the contents in any case."""
    for start, kind in ((b"fLaC", ".flac"), (b"RIFF", ".wav"), (b"OggS", ".ogg"), (b"ID3", ".mp3")):
        if data.startswith(start):
            return kind
    return ".mp3" if data[:1] == b"\xff" else ".m4a"


def _flac(audio: Audio) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, audio.samples, audio.rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
