"""Logs of the service: one line for each event, as text or JSON.  They never have audio, transcripts or tokens.

logger.info("session over", extra={"fields": {"session": "3f2a", "seconds": 12.5}})
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from datetime import UTC, datetime
from typing import Any, Literal


class Text(logging.Formatter):
    """`2026-11-23T10:00:00 INFO session over session="3f2a" seconds=12.5`; values are JSON, so none can break the line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={json.dumps(value)}" for key, value in _fields(record).items())
        message = " ".join(record.getMessage().splitlines())
        return f"{_time(record)} {record.levelname} {message}{fields}"


class Json(logging.Formatter):
    """One JSON object for each event."""

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


class RateLimit(logging.Filter):
    """Filter that lets a repeated event pass once a minute, with the number of those left out, so that disks do not fill up.

    It works as the filter of a logger, or by its own `warning`.
    """

    def __init__(self, logger: logging.Logger | None = None, seconds: float = 60.0):
        super().__init__()
        self._logger, self._seconds = logger, seconds
        self._seen: dict[str, tuple[float, int]] = {}  # time of the last line, and the number left out since

    def warning(self, event: str, **fields: Any) -> None:
        if self._logger is not None and (left_out := self._due(event)) is not None:
            fields |= {"left_out": left_out} if left_out else {}
            self._logger.warning(event, extra={"fields": fields})

    def filter(self, record: logging.LogRecord) -> bool:
        error = repr(record.exc_info[1]) if record.exc_info else ""
        left_out = self._due(f"{str(record.msg).splitlines()[:1]} {error[:200]}")
        if left_out:
            record.fields = {**getattr(record, "fields", {}), "left_out": left_out}
        return left_out is not None

    def _due(self, key: str) -> int | None:
        """Return None if the event must be left out now, else how many were left out before it."""
        now = time.monotonic()
        last, left_out = self._seen.get(key, (-math.inf, 0))
        if now - last < self._seconds:
            self._seen[key] = last, left_out + 1
            return None
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[key] = now, 0
        return left_out


def set_up(form: Literal["text", "json"], level: str = "INFO") -> None:
    """Send all logs of the process to stderr in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else Text())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.getLogger("uvicorn").handlers.clear()
    # At INFO it logs the whole address of each WebSocket, whose query may have a token.
    logging.getLogger("uvicorn.error").setLevel("WARNING")
    for name in ("uvicorn.error", "asyncio"):  # malformed HTTP; no free file descriptor
        logging.getLogger(name).addFilter(RateLimit())
