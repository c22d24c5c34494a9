"""Text files of users: UTF-8 with or without a byte order mark, lines that end in LF, CRLF or CR, plain or compressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import TextIO

from samba_asr.errors import UserError

OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}  # by suffix; anything else is plain
FAULTS = (OSError, UnicodeError, EOFError, lzma.LZMAError)  # of opening and of reading


def open_text(path: Path) -> TextIO:
    """A file to read lines from, which end in LF here.  `FAULTS` come up here, and while reading."""
    return OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8-sig")


def read_text(path: Path | str, kind: str) -> str:
    """The whole text; UserError that calls the file a `kind` where it cannot be read."""
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
    """The lines of `read_text`, by LF alone: str.splitlines would cut at U+2028 and the like too."""
    return read_text(path, kind).split("\n")
