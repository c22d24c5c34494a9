"""The user's cache folder: what can be made again at any time, and is never needed."""

from __future__ import annotations

import os
import sys
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
