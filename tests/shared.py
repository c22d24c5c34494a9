"""Real speech for tests: the folder `shared` beside the checkout, where there is one.  Users have none: tests skip."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "shared"


def shared(path: str) -> Path | None:
    """The file or folder `path` inside ../shared, or None."""
    found = ROOT / path
    return found if found.exists() else None


def needs_shared(path: str):
    """Mark a test that needs ../shared/`path`."""
    return pytest.mark.skipif(
        shared(path) is None, reason=f"../shared/{path} is not here (it is not part of the project)"
    )
