"""Control of the garbage collector for millions of small, long-lived objects: lexicons, trees, language models.

The collector would traverse them again and again and free nothing.  Without it, building takes half the time; once they are
frozen, sessions that search with them take four fifths.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Pause collection within the block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def settle() -> None:
    """Exclude all current objects from later collections.  Only programs call this, once all is loaded; a library must not."""
    gc.unfreeze()  # some frozen objects may be garbage by now
    gc.collect()
    gc.freeze()
