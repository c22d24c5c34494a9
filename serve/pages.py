"""The files of the page, by the paths at which they are served; no path of a request reaches the file system."""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).parent / "static"
PAGE = {"/": STATIC / "index.html", **{f"/{file.name}": file for file in sorted(STATIC.iterdir())}}
"""Files by path.  They are public: the page asks for the token."""
