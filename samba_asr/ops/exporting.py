"""State of an export: whether a graph is being recorded in this thread, and for which lengths it must be fast.

A recorded graph serves every batch and every length.  So code that is recorded must not depend on a size: no choice, no loop over
time, no `chunk` along the batch.  Ops ask `exporting()` and take a form without these; tests compare it with the usual form.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class _Recording(threading.local):
    on = False
    short = False


_recording = _Recording()


def exporting() -> bool:
    """Return whether a graph is being recorded.  Then each row is one block, and all of its steps are valid."""
    return _recording.on


def is_short() -> bool:
    """Return whether the graph is for few steps, so that scans need not cut them into chunks."""
    return _recording.short


@contextlib.contextmanager
def recording(short: bool = False) -> Iterator[None]:
    """Record a graph within the block.  short: for few steps: it serves every length, but takes time quadratic in it."""
    _recording.on, _recording.short = True, short
    try:
        yield
    finally:
        _recording.on = _recording.short = False
