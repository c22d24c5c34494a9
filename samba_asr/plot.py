"""Figures and their files.  All use of matplotlib, an optional extra, starts here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr.errors import UserError, missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")


def figure(width: float, height: float) -> Figure:
    """Return an empty figure, `width` x `height` inches, that needs no display.  UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plot") from error
    return Figure(figsize=(width, height), layout="constrained")


def check_suffix(path: Path) -> None:
    """Raise UserError for a file name without a known image suffix.  Call it before the work, not after."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a plot's name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def save(drawn: Figure, path: Path) -> Path:
    """Write the figure, creating its folder if needed.  Return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=120)
    return path
