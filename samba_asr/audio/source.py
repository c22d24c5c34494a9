"""Sources of audio as seekable files: a path, the bytes of a file, a binary file object, a pipe, standard input.

Standard input is `-` (or /dev/stdin).  It and other pipes are copied to a temporary file first, because decoders seek and
hours of audio should not fill memory.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from samba_asr.errors import UserError, printable

Source = str | os.PathLike | bytes | bytearray | memoryview | IO[bytes]

STDIN = "-"
MOST_SPOOLED = 8 << 30  # bytes of a pipe, about 12 hours of 48 kHz stereo at 16 bits
_BLOCK = 1 << 20


class AudioError(UserError):
    """Error for a source that cannot be read as audio.  One line: the file, the cause and the fix."""


class Truncated(AudioError):
    """Error for a source that is cut or damaged before its declared end.

    seconds: readable duration, on its own time line.  result: result of the readable part, if a caller sets it.
    """

    result: Any = None

    def __init__(self, name: str, seconds: float, where: str):
        super().__init__(
            f"{name}: ends {where}: {seconds:.2f} s were readable: the copy broke off, fetch it again "
            "(or cut it there and save it again)"
        )
        self.seconds = seconds


def as_file(source: Source, stack: contextlib.ExitStack) -> tuple[str, Any, int]:
    """Return (name for messages, path as a string or seekable binary file, size in bytes).  `stack` closes opened files."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{len(source)} bytes of audio>", io.BytesIO(source), len(source)
    if isinstance(source, str | os.PathLike):
        return _opened(os.fspath(source), stack)
    name = getattr(source, "name", None)  # of a file without one, its descriptor
    name = name if isinstance(name, str) else "<audio>"
    if not source.seekable():
        source = _spooled(name, source, stack)
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return name, source, size


def size(source: Source) -> int:
    """Return the bytes of a source, 0 where that is not known before it is read."""
    if isinstance(source, bytes | bytearray | memoryview):
        return len(source)
    try:
        return os.stat(source).st_size if isinstance(source, str | os.PathLike) else 0
    except (OSError, ValueError):
        return 0


def _opened(path: str | bytes, stack: contextlib.ExitStack) -> tuple[str, Any, int]:
    path = os.fsdecode(path)
    shown = printable(path)
    if path in (STDIN, "/dev/stdin"):
        name, file = "standard input", getattr(sys.stdin, "buffer", None)
        if file is None:
            raise AudioError(f"{name} is closed: name a file, or pipe one in (`samba-asr transcribe - < speech.wav`)")
    else:
        if os.path.isdir(path):
            raise AudioError(f"{shown}: is a folder: name an audio file in it")
        try:
            name, file = shown, stack.enter_context(open(path, "rb"))  # noqa: SIM115
        except FileNotFoundError:
            raise AudioError(f"{shown}: no such file: check the name and the folder (now in {Path.cwd()})") from None
        except ValueError as error:  # a NUL in the name
            raise AudioError(f"{shown}: cannot be a file's name ({error})") from None
        except OSError as error:
            raise AudioError(f"{shown}: cannot be opened ({error.strerror}): check the file's permissions") from None
    try:
        status = os.fstat(file.fileno())
    except (OSError, ValueError):  # sys.stdin was replaced by an object without a descriptor
        return as_file(file, stack)
    if stat.S_ISREG(status.st_mode) and name == shown:
        return name, path, status.st_size
    if os.isatty(file.fileno()):
        raise AudioError(f"{name}: is a terminal: name a file, or pipe one in (`samba-asr transcribe - < speech.wav`)")
    if stat.S_ISCHR(status.st_mode) and not os.path.samestat(status, os.stat(os.devnull)):
        raise AudioError(f"{name}: is a device, which may have no end: record from it to a file first")
    spool = _spooled(name, file, stack)
    return name, spool, spool.seek(0, os.SEEK_END)


def _spooled(name: str, file: IO[bytes], stack: contextlib.ExitStack) -> IO[bytes]:
    spool = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    try:
        while block := file.read(_BLOCK):
            spool.write(block)
            if spool.tell() > MOST_SPOOLED:
                raise AudioError(
                    f"{name}: more than {MOST_SPOOLED >> 30} GiB: write it to a file, and name that file instead"
                )
    except OSError as error:
        raise AudioError(f"{name}: cannot be copied to {tempfile.gettempdir()} ({error.strerror})") from None
    return spool
