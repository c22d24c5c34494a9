"""Reading ahead: order, errors in their place, bounded memory, and an end of the thread."""

from __future__ import annotations

import threading

import pytest

from samba_asr.audio.ahead import PIECES, ahead


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "samba_asr-reader"]


def test_items_come_in_order_from_another_thread():
    found = []

    def items():
        for n in range(50):
            found.append(threading.current_thread())
            yield n

    assert list(ahead(items())) == list(range(50))
    assert threading.current_thread() not in found
    assert not readers()


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise ValueError("damaged")

    some = ahead(items())
    assert [next(some), next(some)] == [1, 2]
    with pytest.raises(ValueError, match="damaged"):
        next(some)
    assert not readers()


def test_no_more_than_a_few_items_are_read_in_advance():
    read, waits = [], threading.Event()

    def items():
        for n in range(100):
            read.append(n)
            if len(read) == PIECES + 2:  # one was taken, some wait, one is in the hand
                waits.set()
            yield n

    some = ahead(items())
    next(some)
    assert waits.wait(10)
    assert len(read) == PIECES + 2
    some.close()


def test_closing_ends_the_thread_and_the_source():
    closed = threading.Event()

    def items():
        try:
            yield from range(1000)
        finally:
            closed.set()

    some = ahead(items())
    next(some)
    some.close()
    assert closed.is_set()
    assert not readers()
