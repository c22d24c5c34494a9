"""One run at a time in a folder: two would write over each other's checkpoints.

The file `lock` names the process that trains there.  The kernel's lock on it ends with the process, however that dies, so
a file that is left over keeps nobody out on the same machine.  Where another machine made it, nobody here can know.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from samba_asr.errors import UserError

FILE = "lock"

_held: set[Path] = set()  # by this process, whose runs may begin in one function and go on in another


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, which exists, as long as the context lasts.

    UserError, with the other's process id and machine, if a run is in it.
    """
    path = Path(folder).resolve() / FILE
    if path in _held:
        yield
        return
    descriptor = _take(path)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _take(path: Path) -> int:
    """The open file, locked and with our name in it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _flock(descriptor):
                raise UserError(_taken(path, _owner(descriptor)))
            if not _is_at(descriptor, path):  # its owner deleted it between our two steps
                os.close(descriptor)
                continue
            owner = _owner(descriptor)
            if owner.get("host", socket.gethostname()) != socket.gethostname():
                raise UserError(f"{_taken(path, owner)}; if that run is dead, delete {path}")
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode() + b"\n", 0)
            return descriptor
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise


def _flock(descriptor: int) -> bool:
    """Whether the kernel's lock is ours; also where the file system has none."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> dict:
    try:
        found = json.loads(os.pread(descriptor, 1000, 0))
        return found if isinstance(found, dict) else {}
    except ValueError:  # empty, or half written
        return {}


def _taken(path: Path, owner: dict) -> str:
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}" if owner else "another process"
    return f"{path.parent}: {who} trains here: wait for it, or train in another folder"
