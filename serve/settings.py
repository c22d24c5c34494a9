"""Settings of the service.  Every limit has a default that is safe on a machine that others can reach.

Each limit can be set from outside: `max_upload_bytes` as `--max-upload-bytes N`, or as `SAMBA_ASR_MAX_UPLOAD_BYTES=N` in the
environment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from samba_asr.errors import UserError

NOT_LIVE = "decode.lm.neural_live=false"
"""Setting of a service, unless it is told otherwise: with thirty sessions partial results would come 0.6 s later."""


def bound(default: float, help: str) -> Any:
    """Make a field for a number that can be set from outside; whole if its default is."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    models: Mapping[str, Path | None] = field(default_factory=lambda: {"english": None})
    """Folders, or names of shipped models, by the names that clients use; the first is the default."""
    device: str = "auto"
    decode: tuple[str, ...] = ()  # overrides of the models' search settings, such as "decode.search.beam=32"
    tokens: tuple[str, ...] = ()  # bearer tokens, one of which a client must send; none: every client is accepted
    origins: tuple[str, ...] = ()  # origins of other sites' pages that may connect
    local: bool = False  # accept only host names of this machine (against DNS rebinding)
    latency_ms: float = bound(640.0, "default latency of live sessions")
    max_sessions: int = bound(64, "live sessions at a time, of all models; further clients receive a time to retry")
    max_session_seconds: float = bound(4 * 3600.0, "seconds of audio in a live session")
    max_backlog_seconds: float = bound(30.0, "seconds of a live session's audio that may wait; beyond, reading pauses")
    max_connections: int = bound(1000, "connections of all kinds; fewer if the process may not open so many files")
    head_seconds: float = bound(10.0, "seconds for a request's head to arrive")
    idle_seconds: float = bound(60.0, "seconds without audio or a command, or without a read, that end a session")
    max_message_bytes: int = bound(1 << 20, "bytes of a WebSocket message, or of a Wyoming event")
    max_uploads: int = bound(2, "uploaded files at a time")
    max_upload_bytes: int = bound(256 << 20, "bytes of a file")
    max_upload_seconds: float = bound(600.0, "seconds for a file to arrive")
    max_file_seconds: float = bound(4 * 3600.0, "seconds of audio in a file")
    retry_seconds: int = bound(5, "seconds after which a refused client may retry")
    grace_seconds: float = bound(20.0, "seconds for sessions to finish when the service shuts down")

    def __post_init__(self):
        for one in bounds():
            value = getattr(self, one.name)
            if not 0 < value < math.inf:
                raise UserError(f"{one.name}={value}: give a positive number")
            if isinstance(one.default, int) and value != int(value):
                raise UserError(f"{one.name}={value}: give a whole number")

    @property
    def max_body_bytes(self) -> int:
        """Limit of a request's body: a file, and the form around it."""
        return self.max_upload_bytes + (1 << 20)


def bounds() -> list[Field]:
    """Return the fields of `Settings` that are numbers."""
    return [one for one in fields(Settings) if "help" in one.metadata]


def from_outside(given: Mapping[str, float | None], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return limits by name: given values (not None), else the environment's; UserError if one there is not a number."""
    found: dict[str, Any] = {}
    for one in bounds():
        kind, variable = type(one.default), f"SAMBA_ASR_{one.name.upper()}"
        if given.get(one.name) is not None:
            found[one.name] = given[one.name]
        elif variable in environment:
            try:
                found[one.name] = kind(environment[variable])
            except ValueError:
                raise UserError(f"{variable}={environment[variable]}: not a number; unset or correct it") from None
    return found
