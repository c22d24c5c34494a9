"""Reading ahead: a thread decodes the next pieces of a file while the caller works on the last one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

PIECES = 2  # that wait for the caller, at most, so that memory is bounded


def ahead(items: Iterator[T], most: int = PIECES) -> Generator[T, None, None]:
    """Yield the items of an iterator that a thread runs, at most `most` of them in advance; its error comes in its place.

    Decoders release Python's lock, so decoding and recognition share two cores.  Closing the generator ends the thread, which
    closes the iterator.
    """
    found: queue.Queue[tuple[str, Any]] = queue.Queue(most)
    closed = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not closed.is_set():
            try:
                return found.put((kind, value), timeout=0.1)
            except queue.Full:
                continue

    def run() -> None:
        try:
            for item in items:
                put("item", item)
                if closed.is_set():
                    break
        except BaseException as error:  # raised where the item would have come
            put("error", error)
        finally:
            if isinstance(items, Generator):
                items.close()
            put("end", None)

    thread = threading.Thread(target=run, name="samba_asr-reader", daemon=True)
    thread.start()
    try:
        while (got := found.get())[0] != "end":
            if got[0] == "error":
                raise got[1]
            yield got[1]
    finally:
        closed.set()
        thread.join()
