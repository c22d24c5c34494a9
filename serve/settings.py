"""What the service may be told: every bound has a value, and the defaults are safe on a machine that others can reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samba_asr.errors import UserError


@dataclass(frozen=True)
class Settings:
    models: Mapping[str, Path | None] = field(default_factory=lambda: {"english": None})
    """Folders, or names in the box, by the names that clients use; the first is for those who name none."""
    device: str = "auto"
    decode: tuple[str, ...] = ()  # over the models' own search, such as "decode.beam=32"
    latency_ms: float = 640.0  # of live sessions that ask for none
    max_sessions: int = 64  # live ones, of all models; beyond, clients are told when to come again
    max_session_seconds: float = 4 * 3600.0  # of audio
    max_backlog_seconds: float = 30.0  # audio of a live session that waits for the model: then reading stops
    max_connections: int = 1000  # of all kinds, or fewer if the process may not open so many files
    head_seconds: float = 10.0  # for a request's head to come
    idle_seconds: float = 60.0  # without audio or an order, or without a client reading: the session is over
    max_message_bytes: int = 1 << 20
    max_uploads: int = 2  # files at a time, from before they are read until their text is there
    max_upload_bytes: int = 256 << 20
    max_upload_seconds: float = 600.0  # for an upload's bytes to come
    max_file_seconds: float = 4 * 3600.0  # of an upload, decoded
    tokens: tuple[str, ...] = ()  # bearer tokens, one of which a client must have; none: everybody may
    origins: tuple[str, ...] = ()  # of pages that may connect from a browser, beside the service's own
    local: bool = False  # asked for by this machine's own names alone (against DNS rebinding)
    retry_seconds: int = 5  # what a client that finds no room is told
    grace_seconds: float = 20.0  # for sessions to finish when the service goes down

    def __post_init__(self):
        for name in ("max_sessions", "max_uploads", "max_connections"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: 1 or more")
