"""The files of the page, and those of Swagger's at `/docs/try`, by the paths at which they are served.

No path of a request reaches the file system.  Swagger's files are those of the package fastapi-offline: FastAPI's own page loads
them from another host, so it is blank without the internet.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

STATIC = Path(__file__).parent / "static"


def swagger() -> dict[str, Path]:
    """Return the files of Swagger's page; none if the package is not installed."""
    found = find_spec("fastapi_offline")  # not imported: only its files are wanted
    if found is None or found.origin is None:
        return {}
    folder = Path(found.origin).parent / "static"
    files = {f"/docs/{name}": folder / name for name in ("swagger-ui-bundle.js", "swagger-ui.css")}
    return {"/docs/try": STATIC / "try.html", **files} if all(file.is_file() for file in files.values()) else {}


PAGE = {"/": STATIC / "index.html", **{f"/{file.name}": file for file in sorted(STATIC.iterdir())}, **swagger()}
"""Files by path.  They are public: the page asks for the token."""
