"""Parquet tables through pyarrow (extra `parquet`): values of a column, rows, and tables of rows."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from samba_asr.errors import missing_extra

_GROUPS = 4  # row groups that are kept in memory
_FILES = 1024  # whose row groups are known without reading them again
_SOUNDS = ("audio", "wav", "flac", "sound")  # names of columns of plain bytes that are audio


class Column(NamedTuple):
    """A column of a table."""

    name: str
    sound: bool  # bytes of audio, or Hugging Face's {bytes, path}
    nested: bool


def columns(path: Path) -> list[Column]:
    """Return the columns of a table.  OSError or ValueError if it is no whole Parquet file."""
    arrow, parquet = _arrow()
    with parquet.ParquetFile(path) as file:
        return [Column(f.name, _is_sound(arrow, f), arrow.types.is_nested(f.type)) for f in file.schema_arrow]


def _is_sound(arrow: Any, field: Any) -> bool:
    kind = field.type
    if arrow.types.is_struct(kind):
        return any(inner.name == "bytes" for inner in kind)
    return field.name.lower() in _SOUNDS and (arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))


def rows(path: Path, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, of the columns `names` alone (None: all)."""
    _, parquet = _arrow()
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=names):
            yield from batch.to_pylist()


def value(path: str, column: str, row: int) -> Any:
    """Return one value.  It is read with its row group, and the last few groups are kept.

    OSError, ValueError or KeyError if there is none.
    """
    stamp = os.stat(path).st_mtime_ns
    counts = _counts(path, stamp)
    first = 0
    for group, count in enumerate(counts):
        if row < first + count:
            return _values(path, stamp, column, group)[row - first]
        first += count
    raise ValueError(f"it has {first} rows")


@functools.lru_cache(_FILES)
def _counts(path: str, stamp: int) -> tuple[int, ...]:
    """Return the rows of each row group.  stamp: time of the file, so that a changed one is read again."""
    _, parquet = _arrow()
    with parquet.ParquetFile(path) as file:
        return tuple(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))


@functools.lru_cache(_GROUPS)
def _values(path: str, stamp: int, column: str, group: int) -> list[Any]:
    """Return the values of a column in a row group."""
    _, parquet = _arrow()
    with parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(column).to_pylist()


def write(path: Path, entries: Sequence[Mapping[str, Any]], lists: Mapping[str, Mapping[str, type]]) -> None:
    """Write rows of text and numbers.

    lists: for each column of lists of objects, the types of their fields: an empty list does not tell them.
    """
    arrow, parquet = _arrow()
    kinds = {str: arrow.string(), float: arrow.float64(), int: arrow.int64()}
    fields = []
    for name, found in entries[0].items():
        if name in lists:
            kind = arrow.list_(arrow.struct([(field, kinds[of]) for field, of in lists[name].items()]))
        else:
            kind = kinds[type(found)]
        fields.append((name, kind))
    parquet.write_table(arrow.Table.from_pylist([dict(entry) for entry in entries], arrow.schema(fields)), path)


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise missing_extra("pyarrow", "parquet") from None
    return arrow, parquet
