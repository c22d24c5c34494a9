"""A pool of language model states, a slot for each text: which slots are free, how it grows, and how a state takes a step.

r  rows of a step     c  channels of the convolution     h  heads     p  channels of a head     n  state
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from samba_asr.decoding.backend import has_numba
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


Array = Any  # of numpy, or a tensor


def convolve(pool: Array, source: Array, target: Array, inputs: Array, weight: Array, bias: Array, out: Array) -> None:
    """Write the short convolution of inputs (r, c) to `out` (r, c), row by row: a source may be the target of an earlier row.

    pool (slots, d_conv - 1, c): last inputs, read at `source` (r,) and written at `target` (r,).  weight (c, d_conv), bias (c,).
    """
    last = pool.shape[1]
    for r in range(len(source)):
        before = pool[source[r]]
        out[r] = (before * weight[:, :last].T).sum(0) + inputs[r] * weight[:, last] + bias
        for k in range(1, last):  # upwards, as both may be one slot
            pool[target[r], k - 1] = before[k]
        pool[target[r], last - 1] = inputs[r]


def advance(pool: Array, source: Array, target: Array, decay: Array, x: Array, B: Array, C: Array, y: Array) -> None:
    """Write the outputs of Mamba-2's scan to y (r, h, p), row by row: state' = decay state + x B^T, y = state' C.

    pool (slots, h, p, n), read at `source` (r,) and written at `target` (r,).  decay (r, h), x (r, h, p), B and C (r, n).
    """
    for r in range(len(source)):
        state = pool[source[r]] * decay[r, :, None, None] + x[r, ..., None] * B[r]
        pool[target[r]] = state
        y[r] = state @ C[r]


def kernels(compiled: bool | None) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return the compiled `convolve` and `advance`, for numpy's arrays, or the definitions.  None: compiled with numba."""
    if compiled is False or (compiled is None and not has_numba()):
        return convolve, advance
    from samba_asr.decoding.compiled import states
    from samba_asr.decoding.compiled.jit import call_first

    def waiting(function: Callable[..., None]) -> Callable[..., None]:
        return lambda *arrays: call_first(lambda: function(*arrays))

    return waiting(states.convolve), waiting(states.advance)
