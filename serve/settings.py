"""What the service may be told: every bound has a value, and the defaults are safe on a machine that others can reach.

Each can be set from outside: `max_upload_bytes` as `--max-upload-bytes N`, or as `SAMBA_ASR_MAX_UPLOAD_BYTES=N` in the
environment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from samba_asr.errors import UserError


def bound(default: float, told: str) -> Any:
    """A number that can be set from outside, as whole as its default."""
    return field(default=default, metadata={"help": told})


@dataclass(frozen=True)
class Settings:
    models: Mapping[str, Path | None] = field(default_factory=lambda: {"english": None})
    """Folders, or names in the box, by the names that clients use; the first is for those who name none."""
    device: str = "auto"
    decode: tuple[str, ...] = ()  # over the models' own search, such as "decode.search.beam=32"
    tokens: tuple[str, ...] = ()  # bearer tokens, one of which a client must have; none: everybody may
    origins: tuple[str, ...] = ()  # of pages that may connect from a browser, beside the service's own
    local: bool = False  # asked for by this machine's own names alone (against DNS rebinding)
    latency_ms: float = bound(640.0, "of live sessions that ask for none")
    max_sessions: int = bound(64, "live sessions at a time, of all models; others receive when to come again")
    max_session_seconds: float = bound(4 * 3600.0, "of audio in a live session")
    max_backlog_seconds: float = bound(30.0, "of a live session's audio that waits for the model: then reading stops")
    max_connections: int = bound(1000, "of all kinds, or fewer if the process may not open so many files")
    head_seconds: float = bound(10.0, "for a request's head to come")
    idle_seconds: float = bound(60.0, "without audio or an order, or without a client reading: the session is over")
    max_message_bytes: int = bound(1 << 20, "of a WebSocket message")
    max_uploads: int = bound(2, "files at a time, from before they are read until their text is there")
    max_upload_bytes: int = bound(256 << 20, "of a file")
    max_upload_seconds: float = bound(600.0, "for an upload's bytes to come")
    max_file_seconds: float = bound(4 * 3600.0, "of a file, decoded")
    retry_seconds: int = bound(5, "after which a client that finds no room may come again")
    grace_seconds: float = bound(20.0, "for sessions to finish when the service goes down")

    def __post_init__(self):
        for one in bounds():
            value = getattr(self, one.name)
            if not 0 < value < math.inf:
                raise UserError(f"{one.name}={value}: a positive number")
            if isinstance(one.default, int) and value != int(value):
                raise UserError(f"{one.name}={value}: a whole number")

    @property
    def max_body_bytes(self) -> int:
        """Of a request: a file, and a form around it."""
        return self.max_upload_bytes + (1 << 20)


def bounds() -> list[Field]:
    """The fields of `Settings` that are numbers."""
    return [one for one in fields(Settings) if "help" in one.metadata]


def from_outside(given: Mapping[str, float | None], environment: Mapping[str, str]) -> dict[str, float]:
    """Bounds by name: those given (not None), else of the environment; UserError for a value there that is no number."""
    found: dict[str, float] = {}
    for one in bounds():
        kind, variable = type(one.default), f"SAMBA_ASR_{one.name.upper()}"
        if given.get(one.name) is not None:
            found[one.name] = given[one.name]
        elif variable in environment:
            try:
                found[one.name] = kind(environment[variable])
            except ValueError:
                raise UserError(f"{variable}={environment[variable]}: not a number; unset it, or mend it") from None
    return found
