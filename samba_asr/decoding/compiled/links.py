"""Linked nodes in arrays (r, n) int32, the first row of which is the node before, -1 for none: growth, and removal of what is
not reached."""

from __future__ import annotations

import numpy as np

from samba_asr.decoding.compiled.jit import jit


@jit
def compact(links, used, roots, low, high):
    """Keep the nodes that rows low .. high - 1 of `roots` reach, in order, and renumber those rows; returns how many."""
    marks = np.full(used, -1, np.int32)
    for r in range(low, high):
        for j in range(roots.shape[1]):
            at = roots[r, j]
            while at >= 0 and marks[at] < 0:
                marks[at] = 0
                at = links[0, at]
    n = 0
    for i in range(used):
        if marks[i] >= 0:
            before = links[0, i]
            links[0, n] = marks[before] if before >= 0 else -1
            for c in range(1, links.shape[0]):
                links[c, n] = links[c, i]
            marks[i] = n
            n += 1
    for r in range(low, high):
        for j in range(roots.shape[1]):
            if roots[r, j] >= 0:
                roots[r, j] = marks[roots[r, j]]
    return n


@jit
def resized(links, used, size):
    """Return the first `used` nodes in an array for `size`."""
    found = np.empty((links.shape[0], size), np.int32)
    for r in range(links.shape[0]):
        for i in range(used):
            found[r, i] = links[r, i]
    return found
