"""Many files: several at a time in threads, each with its result or its error.

Threads share one recognizer and so one copy of its weights; its products and its compiled search release Python's lock.  Rows
of one step were measured too: 24 files (336 s) took 6.4 s of processor time as rows of 8, and 6.7 s one after another.  That is
too little for a second way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from samba_asr.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


def attempt(name: str, work: Callable[[], R]) -> tuple[R | None, str]:
    """Do the work on the file `name`; return its result and "", or the error that the user can fix.

    Of a damaged file both are there: the result up to the damage (`Truncated.result`), and the error.
    """
    try:
        return work(), ""
    except UserError as error:
        return getattr(error, "result", None), str(error)
    except (OSError, MemoryError) as error:
        return None, f"{name}: {getattr(error, 'strerror', None) or 'too large for the memory'}"


def in_threads(work: Callable[[T], R], items: Sequence[T], jobs: int = 1) -> Iterator[tuple[int, R]]:
    """Yield (position, result) of each item as it is done, `jobs` at a time; they start in their order.

    With one job there is no thread.  Leaving the generator early waits for the items in work and starts no others.
    UserError for jobs below 1.
    """
    if jobs < 1:
        raise UserError(f"jobs={jobs}: give at least 1")
    if jobs == 1:
        yield from ((i, work(item)) for i, item in enumerate(items))
        return
    waiting: dict[Future[R], int] = {}
    with ThreadPoolExecutor(jobs, "samba_asr-many") as pool:
        for i, item in enumerate(items):
            waiting[pool.submit(work, item)] = i
            if len(waiting) > jobs:  # one is ready for whoever is done first
                yield from _finished(waiting)
        while waiting:
            yield from _finished(waiting)


def _finished(waiting: dict[Future[R], int]) -> Iterator[tuple[int, R]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in sorted(done, key=lambda future: waiting[future]):
        yield waiting.pop(future), future.result()


def largest_first(work: Callable[[T], R], items: Sequence[T], jobs: int, size: Callable[[T], float]) -> Iterator[R]:
    """Yield the results in the order of the items, each as soon as those before it are there.

    With several jobs the largest items begin first, so that none of them runs alone at the end.  Otherwise as `in_threads`.
    """
    order = sorted(range(len(items)), key=lambda i: -size(items[i]) if jobs > 1 else 0)
    early: dict[int, R] = {}
    following = 0
    for n, result in in_threads(lambda i: work(items[i]), order, jobs):
        early[order[n]] = result
        while following in early:
            yield early.pop(following)
            following += 1
