"""Threads for rows that do not depend on each other."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="samba_asr-search")


def each(act: Callable[[T], None], items: Sequence[T], threads: int) -> None:
    """Call `act` for each item, in this thread and others, at most `threads` (0: as many as cores).  Errors are raised."""
    count = min(threads or cores(), len(items))
    if count <= 1:
        for item in items:
            act(item)
        return
    left = iter(items)  # `next` of a list's iterator is atomic

    def work() -> None:
        for item in left:
            act(item)

    pool = _pool(threads or cores())
    others = [pool.submit(work) for _ in range(count - 1)]
    try:
        work()
    finally:
        for other in others:
            other.result()
