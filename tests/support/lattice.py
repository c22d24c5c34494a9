"""Lattices of one utterance, and all of their paths."""

from __future__ import annotations

import numpy as np

from samba_asr.decoding.lattice import Lattice
from samba_asr.decoding.prefix_beam import PrefixBeam


def found(search: PrefixBeam, x, hotwords=None):
    """The finished state of one utterance (t, v), and its lattice."""
    state = search.finish(search.step(x[None], np.array([len(x)]), search.init_state(1, hotwords)))
    return state, search.lattices(state)[0]


def paths(lattice: Lattice) -> list[tuple[tuple[str, ...], float, float, tuple[int, ...]]]:
    """(words, acoustic, lm, arcs) of every path from start to end."""
    ways = {0: [((), 0.0, 0.0, ())]}
    for arc, (low, high, word) in enumerate(
        zip(lattice.start.tolist(), lattice.end.tolist(), lattice.texts, strict=True)
    ):
        more = [
            ((*words, word) if word else words, a + lattice.acoustic[arc], g + lattice.lm[arc], (*arcs, arc))
            for words, a, g, arcs in ways.get(low, [])
        ]
        ways.setdefault(high, []).extend(more)
    return ways[len(lattice.times) - 1]
