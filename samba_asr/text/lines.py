"""Text files of users: UTF-8 with or without a byte order mark; line ends LF, CRLF or CR; plain or compressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import TextIO

from samba_asr.errors import UserError

OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}  # by suffix; other files are plain
FAULTS = (OSError, UnicodeError, EOFError, lzma.LZMAError)  # errors of opening and of reading


def open_text(path: Path) -> TextIO:
    """Open a file to read lines that end in LF.  `FAULTS` may be raised here and while reading."""
    return OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8-sig")


def read_text(path: Path | str, kind: str) -> str:
    """Return the whole text.  UserError if it cannot be read; kind: what the message calls the file."""
    try:
        with open_text(Path(path)) as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: cannot read the {kind}: not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None
    except FAULTS as error:
        raise UserError(f"{path}: cannot read the {kind} ({getattr(error, 'strerror', None) or error})") from None


def read_lines(path: Path | str, kind: str) -> list[str]:
    """Return the lines of `read_text`, split at LF only: str.splitlines would also split at U+2028 and similar characters."""
    return read_text(path, kind).split("\n")
