"""Audio inside larger files: a member of a tar shard, a row of a Parquet table.

An address names it wherever a path of an audio file may stand, in manifests first of all:

    shards/000012.tar#1536+40211        40211 bytes from byte 1536 on: read at random, no index needed
    train-00000.parquet#audio[17]       row 17 of the column `audio`, whose values are bytes or Hugging Face's {bytes, path}

A row is read with its row group, the unit of Parquet's compression; the last few groups are kept.  So rows in order cost
little, and rows at random cost a group each: `samba-asr shard` turns such tables into tar.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import Any, NamedTuple

from samba_asr.audio import parquet
from samba_asr.audio.source import AudioError
from samba_asr.errors import UserError, printable

_SLICE = re.compile(r"(?P<path>.+)#(?P<offset>\d+)\+(?P<length>\d+)", re.DOTALL)
_ROW = re.compile(r"(?P<path>.+)#(?P<column>[^#\[\]]+)\[(?P<row>\d+)\]", re.DOTALL)


class Slice(NamedTuple):
    """Bytes of a file."""

    path: str
    offset: int  # bytes
    length: int  # bytes

    def __str__(self) -> str:
        return f"{self.path}#{self.offset}+{self.length}"


class Row(NamedTuple):
    """A value of a Parquet table."""

    path: str
    column: str
    row: int

    def __str__(self) -> str:
        return f"{self.path}#{self.column}[{self.row}]"


def parse(source: str) -> Slice | Row | None:
    """Return the address that `source` is, or None for the path of a file."""
    if "#" not in source or os.path.exists(source):
        return None
    if found := _SLICE.fullmatch(source):
        return Slice(found["path"], int(found["offset"]), int(found["length"]))
    if found := _ROW.fullmatch(source):
        return Row(found["path"], found["column"], int(found["row"]))
    return None


def container(source: str) -> str:
    """Return the file that must exist for `source`: the archive of an address, or the file itself."""
    address = parse(source)
    return address.path if address else source


def open_address(address: Slice | Row, stack: contextlib.ExitStack) -> tuple[str, Any, int]:
    """Return (name for messages, seekable binary file, size in bytes), as `samba_asr.audio.source.as_file` does.

    AudioError if the archive is missing, or is too short for the address.
    """
    name = printable(str(address))
    if isinstance(address, Row):
        data = _value(address)
        return name, io.BytesIO(data), len(data)
    try:
        size = os.path.getsize(address.path)
        file = stack.enter_context(open(address.path, "rb"))  # noqa: SIM115
    except OSError as error:
        raise AudioError(f"{name}: its shard cannot be opened ({error.strerror}): check the folder") from None
    if address.offset + address.length > size:
        raise AudioError(
            f"{name}: its shard has {size} bytes: it is cut, or not the one that the manifest was made from: "
            "copy it again, or prepare the manifest again"
        )
    return name, stack.enter_context(io.BufferedReader(_Part(file, address.offset, address.length))), address.length


class _Part(io.RawIOBase):
    """Seekable view of `length` bytes of an open file, from `offset` on."""

    def __init__(self, file: Any, offset: int, length: int):
        self._file, self._offset, self._length, self._at = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        if at < 0:
            raise ValueError(f"seek to {at}: before the beginning")
        self._at = at
        return at

    def readinto(self, buffer) -> int:
        size = max(0, min(len(buffer), self._length - self._at))
        self._file.seek(self._offset + self._at)
        data = self._file.read(size)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _value(address: Row) -> bytes:
    """Return the bytes of a row; AudioError for a row without bytes."""
    name = printable(str(address))
    try:
        value = parquet.value(address.path, address.column, address.row)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors or OSErrors
        if isinstance(error, UserError):
            raise
        text = " ".join(str(error).split())[:200]
        raise AudioError(f"{name}: the table cannot be read ({text}): copy it again") from None
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise AudioError(f"{name}: this row has no bytes of audio: embed the files in the table, or leave the row out")
    return data
