"""A sheet to draw on, and the file it goes to: matplotlib's home, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr.errors import UserError, missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, that needs no display.  UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plot") from error
    return Figure(figsize=(width, height), layout="constrained")


def check_suffix(path: Path) -> None:
    """UserError for a name that does not say what kind of picture: better before the work than behind it."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a plot's name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def save(drawn: Figure, path: Path) -> Path:
    """Write it, making its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=120)
    return path
