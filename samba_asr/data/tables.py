"""Corpora as tables: CSV and TSV of path and text, and LJSpeech's metadata.csv."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from samba_asr.data.fields import NAMES, columns, located, segment
from samba_asr.data.manifest import Utterance, utterance_of
from samba_asr.errors import UserError
from samba_asr.text.lines import read_text

_COLUMNS = {"audio": "audio paths", "id": "ids", "text": "texts"}  # names in messages
_PLAIN = ("audio", "text", "speaker", "id")  # the columns of a table without a header


def read_table(path: Path) -> list[Utterance]:
    """Read a CSV or TSV with one utterance per line: path, text and optional speaker, id, split, start, end, duration.

    With a header line the columns are found by name (`fields.py`, including those of Common Voice, Hugging Face and NeMo).
    Without one they are path, text, speaker, id.  The separator is the first of tab, comma, semicolon and bar that the first
    line contains.  Rows with a start, end or duration, in seconds, are parts of their file.  Audio paths are relative to the
    table, or to `clips/`, `wavs/` or `audio/` in its folder.  The default id is the file's stem, with the start of a part.
    For a folder, the only table in it is read.
    """
    if path.is_dir():
        tables = sorted([*path.glob("*.csv"), *path.glob("*.tsv")])
        if len(tables) != 1:
            raise UserError(f"{path}: {len(tables)} tables (.csv, .tsv) in it: name one of them")
        path = tables[0]
    folder = os.path.abspath(path.parent)
    utterances = []
    for where, cells in table_records(path, "audio"):
        if not cells.get("audio"):
            raise UserError(f"{where}: no audio path: fill it in, or delete the line")
        utterances.append(utterance_of(segment({**cells, "audio": located(cells["audio"], folder)}, where), folder))
    return utterances


def table_records(path: Path, *needed: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (file:line, field -> cell) for each row, without empty cells.

    UserError for a header that lacks a field of `needed`, and for a row with more cells than the header, because a separator
    in a text without quotes would cut the text.
    """
    rows = _rows(path)
    if not rows:
        return
    found = columns(rows[0][1])
    headed = "audio" in found or "text" in found
    if headed:
        if lacking := [field for field in needed if field not in found]:
            raise UserError(
                f"{path}:1: no column of {_COLUMNS[lacking[0]]}: name one of the columns `{NAMES[lacking[0]][0]}`"
            )
    else:
        found = {name: [index] for index, name in enumerate(_PLAIN)}
    width = len(rows[0][1])
    for number, row in rows[headed:]:
        where = f"{path}:{number}"
        if any(cell.strip() for cell in row[width:]):
            raise UserError(
                f"{where}: {len(row)} cells where the first line has {width}: put texts with separators in quotes"
            )
        cells = {
            field: next((row[i].strip() for i in places if i < len(row) and row[i].strip()), "")
            for field, places in found.items()
        }
        yield where, {field: cell for field, cell in cells.items() if cell}


def is_ljspeech(folder: Path) -> bool:
    """Return whether a folder has `wavs/` or `wav/`, and a `metadata.csv` with bars and no header."""
    table = folder / "metadata.csv"
    if not table.exists() or not ((folder / "wavs").is_dir() or (folder / "wav").is_dir()):
        return False
    first = read_text(table, "table").lstrip().partition("\n")[0]
    return "|" in first and not {"audio", "text"} & columns(first.split("|")).keys()


def read_ljspeech(path: Path) -> list[Utterance]:
    """Read LJSpeech: `metadata.csv` with `id|text` or `id|raw text|text` (the last is used), audio in `wavs/` or `wav/`.

    path: the folder or its metadata.csv.  The speaker is LJ.  `validate` reports missing clips.
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
            raise UserError(f"{table}:{number}: no `|` in it: write id|text or id|raw text|text")
        file = os.path.abspath(files.get(id, audio / f"{id}.wav"))
        utterances.append(Utterance(id, file, texts[-1].strip(), "LJ"))
    return utterances


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line without surrounding blanks) of a UTF-8 text file; empty lines are skipped."""
    for number, line in enumerate(
        read_text(path, "text").split("\n"), 1
    ):  # splitlines would also split at U+2028 and similar characters
        if line.strip():
            yield number, line.strip()


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return (line number, cells) of each row; empty lines are skipped."""
    text = read_text(path, "table")
    first = text.lstrip().partition("\n")[0]
    separator = next((mark for mark in "\t,;|" if mark in first), ",")
    # In tab-separated tables, such as Common Voice's, a quote is an ordinary character.
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text), delimiter=separator, quoting=quoting)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}: is this a table of text?") from None
