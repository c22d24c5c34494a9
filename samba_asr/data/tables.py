"""Corpora that are tables: CSV and TSV of path and text, and LJSpeech's metadata.csv."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from samba_asr.data.manifest import Utterance, id_of
from samba_asr.errors import UserError

# Names of columns, in lower case, that mean our fields.
_NAMES = {
    "audio": ("path", "audio", "file", "filename", "file_name", "wav", "audio_path", "audio_filepath"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk"),
    "id": ("id", "utt_id", "utterance_id"),
    "split": ("split", "set", "subset"),
}


def read_table(path: Path) -> list[Utterance]:
    """A CSV or TSV: one utterance a line, columns path, text and, if there, speaker, id, split.

    With a header line the columns are found by name (those of Common Voice and of the usual data-set folders
    too); without one they are path, text, speaker, id.  The separator is the tab, the comma, the semicolon or the
    bar, whichever the first line has (in that order).  Audio paths are relative to the table, or to its folder's
    `clips/`, `wavs/` or `audio/`; without an id, the file's stem serves.  A folder means the one table in it.
    """
    if path.is_dir():
        tables = sorted([*path.glob("*.csv"), *path.glob("*.tsv")])
        if len(tables) != 1:
            raise UserError(f"{path}: {len(tables)} tables (.csv, .tsv) in it: name the one you mean")
        path = tables[0]
    rows = _rows(path)
    if not rows:
        return []
    columns = _header(rows[0][1])
    if columns:
        rows = rows[1:]
        if "audio" not in columns:
            raise UserError(f"{path}:1: no column of audio paths: name one of the columns `path`")
    else:
        columns = {name: index for index, name in enumerate(("audio", "text", "speaker", "id"))}
    folder = os.path.abspath(path.parent)
    utterances = []
    for number, row in rows:
        cells = {name: row[index].strip() for name, index in columns.items() if index < len(row)}
        if not cells.get("audio"):
            raise UserError(f"{path}:{number}: no audio path in {row}: fill it in, or delete the line")
        cells["id"] = cells.get("id") or id_of(cells["audio"])
        cells["audio"] = _find(folder, cells["audio"])
        utterances.append(Utterance(**cells))
    return utterances


def read_ljspeech(path: Path) -> list[Utterance]:
    """LJSpeech: `metadata.csv` with `id|text` or `id|raw text|text` (the last is taken), audio in `wavs/` or `wav/`.

    path: the folder or its metadata.csv.  One speaker, LJ.  A clip that is missing is reported by `validate`.
    """
    folder = path.parent if path.is_file() else path
    table = folder / "metadata.csv"
    if not table.exists():
        raise UserError(f"{table}: no such file: LJSpeech's folder has one")
    audio = folder / ("wavs" if (folder / "wavs").is_dir() else "wav")
    files = {file.stem: file for file in audio.iterdir()} if audio.is_dir() else {}
    utterances = []
    for number, line in numbered_lines(table):
        id, *texts = line.split("|")
        if not texts:
            raise UserError(f"{table}:{number}: no `|` in it: a line is id|text or id|raw text|text")
        file = os.path.abspath(files.get(id, audio / f"{id}.wav"))
        utterances.append(Utterance(id, file, texts[-1].strip(), "LJ"))
    return utterances


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line without surrounding blanks) of a UTF-8 text file; empty lines left out."""
    for number, line in enumerate(_text(path).split("\n"), 1):  # splitlines would also cut at U+2028 and the like
        if line.strip():
            yield number, line.strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells), empty lines left out."""
    text = _text(path)
    first = text.lstrip().partition("\n")[0]
    separator = next((mark for mark in "\t,;|" if mark in first), ",")
    # In tab-separated tables a quote is a quote: Common Voice's are written so.
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text), delimiter=separator, quoting=quoting)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}: is this a table of text?") from None


def _header(row: list[str]) -> dict[str, int]:
    """field -> index of its column; empty if the row is no header (no cell is a known name of text or audio)."""
    cells = [cell.strip().lower() for cell in row]
    columns = {
        field: next(cells.index(name) for name in names if name in cells)
        for field, names in _NAMES.items()
        if any(name in cells for name in names)
    }
    return columns if "audio" in columns or "text" in columns else {}


def _find(folder: str, audio: str) -> str:
    """The path of `audio` as seen from the table's folder."""
    for place in ("", "clips", "wavs", "audio"):
        path = os.path.join(folder, place, audio)
        if os.path.exists(path):
            return path
    return os.path.join(folder, audio)
