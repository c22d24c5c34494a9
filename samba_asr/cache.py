"""The user's cache folder: what can be made again at any time, and is never needed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder, which need not exist: `SAMBA_ASR_CACHE`, or samba_asr in the system's folder of caches."""
    if own := os.environ.get("SAMBA_ASR_CACHE"):
        return Path(own)
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
    return Path(base) / "samba_asr"


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Wait until no other process of this user is in a block of this name; where files cannot be locked, do not wait."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):  # Windows has no fcntl; a cache may be read-only
            import fcntl

            cache_folder().mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(cache_folder() / f"{name}.lock", "a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
