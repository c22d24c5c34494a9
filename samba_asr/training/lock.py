"""Lock of a run's folder: two runs in one folder would overwrite each other's checkpoints.

The file `lock` names the process that trains in the folder.  The kernel releases its lock on the file when the process ends in
any way, so a leftover file blocks no run on the same machine.  If another machine made the file, it is not known whether its
process still runs.
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

_held: set[Path] = set()  # locks of this process, which may take one in two nested functions


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the existing folder within the block.

    UserError, with the process id and machine of the other run, if it is locked.
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
    """Open and lock the file, write this process into it, and return its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _flock(descriptor):
                raise UserError(_taken(path, _owner(descriptor)))
            if not _is_at(descriptor, path):  # its owner deleted it between opening and locking
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
    """Take the kernel's lock; return whether it is ours.  True if the file system has no locks."""
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
