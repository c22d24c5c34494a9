"""Joins of a word lattice in compiled code: an open hash table of those that a search has, and where words begin."""

from __future__ import annotations

import numpy as np

from samba_asr.decoding.compiled.jit import jit

U64 = np.uint64


@jit
def word_begin(nodes, begins, at):
    """Return the node of the first token of the word that a node of an alignment is in."""
    while nodes[0, at] >= 0 and not begins[nodes[1, at]]:
        at = nodes[0, at]
    return at


@jit
def find_join(table, joins, reading, word, into):
    """Return the slot of `table` that holds the join with this key, or is empty (-1).  joins: rows reading, into, word."""
    mask = U64(len(table) - 1)
    key = (U64(reading + 1) * U64(0x9E3779B97F4A7C15)) ^ (U64(into) * U64(0xD6E8FEB86659FD93)) ^ U64(word)
    key = key * U64(0xBF58476D1CE4E5B9)
    s = (key ^ (key >> U64(29))) & mask
    while table[s] >= 0:
        at = table[s]
        if joins[0, at] == reading and joins[1, at] == into and joins[2, at] == word:
            return s
        s = (s + U64(1)) & mask
    return s


@jit
def index_joins(joins, count, least):
    """Return a table of the first `count` joins, with at least `least` slots, for `find_join`."""
    slots = 1
    while slots < least:
        slots *= 2
    table = np.full(slots, -1, np.int32)
    for i in range(count):
        table[find_join(table, joins, joins[0, i], joins[2, i], joins[1, i])] = i
    return table
