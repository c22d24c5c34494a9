"""What the service writes down: one line an event, as text or as JSON.  Never audio, never what was said, never a token.

logger.info("session over", extra={"fields": {"session": "3f2a", "seconds": 12.5}})
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal


class Text(logging.Formatter):
    """`2026-11-23T10:00:00 INFO session over session="3f2a" seconds=12.5`; values as JSON, so that none can begin a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={json.dumps(value)}" for key, value in _fields(record).items())
        return f"{_time(record)} {record.levelname} {record.getMessage()}{fields}"


class Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = {"time": _time(record), "level": record.levelname, "event": record.getMessage(), "logger": record.name}
        return json.dumps({**head, **_fields(record)})


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "fields", {}))
    if record.exc_info:
        fields["error"] = logging.Formatter().formatException(record.exc_info)
    return fields


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def set_up(form: Literal["text", "json"], level: str = "INFO") -> None:
    """For the process: everything goes to stderr in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else Text())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.getLogger("uvicorn").handlers.clear()
    # It writes the whole address of each WebSocket, in whose query a token may stand.
    logging.getLogger("uvicorn.error").setLevel("WARNING")
