"""The messages that samba_asr logged, without those of other packages."""

from __future__ import annotations

import pytest


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return our messages.  Threads of Ray and of servers outlive the tests that started them, and log during later ones."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("samba_asr")]
