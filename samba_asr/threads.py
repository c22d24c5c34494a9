"""Threads for rows that do not depend on each other, and how many there may be."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Return how many threads an operation may use: those of torch where it is loaded, else OMP_NUM_THREADS, else all cores."""
    if torch := sys.modules.get("torch"):
        return torch.get_num_threads()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else cores()


def share(jobs: int) -> None:
    """Divide the threads of operations among `jobs` that run at the same time, also those of a torch that is imported later."""
    if jobs == 1:
        return
    count = max(1, threads() // jobs)
    os.environ["OMP_NUM_THREADS"] = str(count)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(count)


@functools.cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="samba_asr-rows")


def each(act: Callable[[T], None], items: Sequence[T], most: int = 0) -> None:
    """Call `act` for each item, in this thread and others, at most `most` (0: as many as cores).  Errors are raised."""
    count = min(most or cores(), len(items))
    if count <= 1:
        for item in items:
            act(item)
        return
    left = iter(items)  # `next` of a list's iterator is atomic

    def work() -> None:
        for item in left:
            act(item)

    pool = _pool(most or cores())
    others = [pool.submit(work) for _ in range(count - 1)]
    try:
        work()
    finally:
        for other in others:
            other.result()
