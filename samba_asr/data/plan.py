"""Plan of a run that may be interrupted: the file beside its output that says what the run is of.

A run that finds the plan of another one must not add to its output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Change(NamedTuple):
    """First difference between two plans."""

    key: str
    before: Any


def change(path: Path, plan: Mapping[str, Any]) -> Change | None:
    """Return the first difference between `plan`, which must be as JSON gives it back, and the one at `path`; None without."""
    before = json.loads(path.read_text("utf-8"))
    return next((Change(key, before.get(key)) for key in plan if plan[key] != before.get(key)), None)


def write(path: Path, plan: Mapping[str, Any]) -> None:
    """Write a plan, at once or not at all: a run may be killed here too."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(plan), encoding="utf-8")
    part.replace(path)
