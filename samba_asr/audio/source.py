"""Sources of audio: a path, the bytes of a file, a binary file object, a pipe or standard input, as a file that can be sought.

Standard input is `-` (or /dev/stdin).  It and other pipes are copied to a temporary file first: decoders seek, and
memory is not for hours of audio.
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
MOST_SPOOLED = 8 << 30  # bytes of a pipe: 12 hours of 48 kHz stereo at 16 bits are as much
_BLOCK = 1 << 20


class AudioError(UserError):
    """A source that cannot be read as audio.  One line: the file, the cause and the fix."""


class Truncated(AudioError):
    """A source that ends, or is damaged, before its end.

    seconds: how far it can be read, on its own time line.  result: what was made of that much, where a caller says so.
    """

    result: Any = None

    def __init__(self, name: str, seconds: float, where: str):
        super().__init__(
            f"{name}: ends {where}: {seconds:.2f} s were readable: the copy broke off, fetch it again "
            "(or cut it there and save it anew)"
        )
        self.seconds = seconds


def as_file(source: Source, stack: contextlib.ExitStack) -> tuple[str, Any, int]:
    """(name for messages, path as a string or seekable binary file, bytes).  `stack` closes what is opened here."""
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


def _opened(path: str | bytes, stack: contextlib.ExitStack) -> tuple[str, Any, int]:
    path = os.fsdecode(path)
    shown = printable(path)
    if path in (STDIN, "/dev/stdin"):
        name, file = "standard input", getattr(sys.stdin, "buffer", None)
        if file is None:
            raise AudioError(f"{name} is closed: name a file, or send one in (`samba-asr transcribe - < speech.wav`)")
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
    except (OSError, ValueError):  # standard input that is an object of somebody's own
        return as_file(file, stack)
    if stat.S_ISREG(status.st_mode) and name == shown:
        return name, path, status.st_size
    if os.isatty(file.fileno()):
        raise AudioError(f"{name}: is a terminal: name a file, or send one in (`samba-asr transcribe - < speech.wav`)")
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
                    f"{name}: more than {MOST_SPOOLED >> 30} GiB: write it to a file, and name that in its place"
                )
    except OSError as error:
        raise AudioError(f"{name}: cannot be copied to {tempfile.gettempdir()} ({error.strerror})") from None
    return spool
