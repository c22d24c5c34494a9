"""Slots of a pool of language model states, each for a text: which are free, and how the pool grows."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from samba_asr.text.units import BOUNDARY

SLOTS = 256  # at first; the pool doubles when it is full


class Slots:
    """A pool of states.  A subclass keeps arrays of them, and defines `extend`, `_clear` and `_double`."""

    def __init__(self):
        self._size = SLOTS
        self._free, self._used = list(range(SLOTS))[::-1], set[int]()

    def start(self) -> tuple[int, np.ndarray]:
        """Return the slot of the empty text, and ln p (v,) of each first unit; BOUNDARY stands for the end of the text."""
        (slot,) = self.take(1)
        self._clear(slot)
        return slot, self.extend([slot], [slot], [BOUNDARY])[0]

    def take(self, n: int) -> list[int]:
        """Return n slots for `extend`, in use from now on."""
        while len(self._free) < n:
            self._free = [*range(self._size, 2 * self._size)][::-1] + self._free
            self._size *= 2
            self._double()
        slots = [self._free.pop() for _ in range(n)]
        self._used.update(slots)
        return slots

    def keep(self, slots: Collection[int]) -> None:
        """Give back all slots but these."""
        unused = sorted(self._used.difference(slots), reverse=True)
        self._free += unused
        self._used.difference_update(unused)

    def extend(self, source: Sequence[int], target: Sequence[int], units: Sequence[int]) -> np.ndarray:
        """Write at `target` the states after texts with one unit more, and return ln p (r, v) of each next unit.

        source: slots of the texts; a target of an earlier step may be one.
        """
        raise NotImplementedError

    def _clear(self, slot: int) -> None:
        """Write the state before any unit."""
        raise NotImplementedError

    def _double(self) -> None:
        """Make the arrays twice as long."""
        raise NotImplementedError
