"""Linked nodes in arrays (r, n) int32, the first row of which is the node before, -1 for none: growth, and removal of what is
not reached."""

from __future__ import annotations

import numpy as np

from samba_asr.decoding.compiled.jit import jit


@jit
def compact(links, scores, used, roots, low, high, more, count, first, last):
    """Keep the nodes that rows low .. high - 1 of `roots` reach, in order, and renumber those rows; returns how many.

    Rows first .. last - 1 of `more`, of its first `count` columns, are roots too.  scores (1, n): moved along.
    """
    marks = np.full(used, -1, np.int32)
    for r in range(low, high):
        for j in range(roots.shape[1]):
            reach(links, marks, roots[r, j])
    for r in range(first, last):
        for j in range(count):
            reach(links, marks, more[r, j])
    n = 0
    for i in range(used):
        if marks[i] >= 0:
            before = links[0, i]
            links[0, n] = marks[before] if before >= 0 else -1
            for c in range(1, links.shape[0]):
                links[c, n] = links[c, i]
            scores[0, n] = scores[0, i]
            marks[i] = n
            n += 1
    for r in range(low, high):
        for j in range(roots.shape[1]):
            if roots[r, j] >= 0:
                roots[r, j] = marks[roots[r, j]]
    for r in range(first, last):
        for j in range(count):
            if more[r, j] >= 0:
                more[r, j] = marks[more[r, j]]
    return n


@jit
def reach(links, marks, at):
    """Mark a node and all before it."""
    while at >= 0 and marks[at] < 0:
        marks[at] = 0
        at = links[0, at]


@jit
def resized(links, used, size):
    """Return the first `used` nodes in an array for `size`."""
    found = np.empty((links.shape[0], size), links.dtype)
    for r in range(links.shape[0]):
        for i in range(used):
            found[r, i] = links[r, i]
    return found
