"""Threads for rows that do not depend on each other, and how many there may be; and a thread that does urgent jobs first."""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)


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


class Worker:
    """A thread that does one job after another: urgent ones first, otherwise in their order.  A job's error is logged."""

    def __init__(self, name: str):
        self._jobs: list[tuple[bool, int, Callable[[], None]]] = []  # a heap
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self.since = math.inf  # time (`time.monotonic`) when the job began that is done now; infinite: none is
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None], *, urgent: bool) -> None:
        """Do a job later.  After `close` nothing happens."""
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._jobs, (not urgent, next(self._numbers), job))
            self._changed.notify()

    def close(self, timeout: float = 0.0) -> None:
        """Drop the jobs that have not begun, and wait at most `timeout` seconds for the one that has."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._jobs or self._closed):
                    self._changed.wait()
                if self._closed:
                    return
                _, _, job = heapq.heappop(self._jobs)
            self.since = time.monotonic()
            try:
                job()
            except Exception:
                logger.exception("a job of the thread %s failed", self._thread.name)
            self.since = math.inf
