"""Corpora that are tables: CSV and TSV of path and text, and LJSpeech's metadata.csv."""

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

_COLUMNS = {"audio": "audio paths", "id": "ids", "text": "texts"}  # as messages call them
_PLAIN = ("audio", "text", "speaker", "id")  # the columns of a table without a header


def read_table(path: Path) -> list[Utterance]:
    """A CSV or TSV: one utterance a line, columns path, text and, if there, speaker, id, split, start, end, duration.

    With a header line the columns are found by name (`fields.py`: those of Common Voice, Hugging Face, NeMo and others
    too); without one they are path, text, speaker, id.  The separator is the tab, the comma, the semicolon or the bar,
    whichever the first line has (in that order).  Rows with a start, end or duration in seconds are parts of their
    file.  Audio paths are relative to the table, or to its folder's `clips/`, `wavs/` or `audio/`; without an id, the
    file's stem serves, with its start.  A folder means the one table in it.
    """
    if path.is_dir():
        tables = sorted([*path.glob("*.csv"), *path.glob("*.tsv")])
        if len(tables) != 1:
            raise UserError(f"{path}: {len(tables)} tables (.csv, .tsv) in it: name the one you mean")
        path = tables[0]
    folder = os.path.abspath(path.parent)
    utterances = []
    for where, cells in table_records(path, "audio"):
        if not cells.get("audio"):
            raise UserError(f"{where}: no audio path in it: fill it in, or delete the line")
        utterances.append(utterance_of(segment({**cells, "audio": located(cells["audio"], folder)}, where), folder))
    return utterances


def table_records(path: Path, *needed: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(file:line, field -> cell) of each row; empty cells are left out.

    UserError for a header without a field of `needed`, and for a row of more cells than the header: a separator that
    stands in a text without quotes would cut it.
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
    """Whether a folder holds `metadata.csv` of bars and no header, beside `wavs/` or `wav/`."""
    table = folder / "metadata.csv"
    if not table.exists() or not ((folder / "wavs").is_dir() or (folder / "wav").is_dir()):
        return False
    first = read_text(table, "table").lstrip().partition("\n")[0]
    return "|" in first and not {"audio", "text"} & columns(first.split("|")).keys()


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
    for number, line in enumerate(
        read_text(path, "text").split("\n"), 1
    ):  # splitlines would also cut at U+2028 and the like
        if line.strip():
            yield number, line.strip()


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells), empty lines left out."""
    text = read_text(path, "table")
    first = text.lstrip().partition("\n")[0]
    separator = next((mark for mark in "\t,;|" if mark in first), ",")
    # In tab-separated tables a quote is a quote: Common Voice's are written so.
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text), delimiter=separator, quoting=quoting)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}: is this a table of text?") from None
