"""Joins of a word lattice in compiled code: what recombination dropped, and a hash table of it."""

from __future__ import annotations

import numpy as np

from samba_asr.decoding.compiled.jit import jit
from samba_asr.decoding.compiled.layout import (
    BONUS,
    J_INTO,
    J_READING,
    J_TOKEN,
    J_WORD,
    LAST,
    PATH_B,
    PATH_N,
    VB,
    VN,
    WORDS,
    X_BONUS,
    X_FROM,
    X_GAIN,
    X_TOKEN,
    X_WORD,
)  # fmt: skip
from samba_asr.decoding.compiled.links import resized

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


@jit
def remember(
    beams, after, alive, stays, ways, idx, count, lost, leader, dropped, places, begins, read, joins, join_score, table, used,
):  # fmt: skip
    """Note what recombination dropped, as samba_asr.decoding.joins.

    lost, leader: the first `dropped` are extensions or beams, and what is kept in their place.  places: scratch, all -1.
    read: (nodes, node_score, words, word_score).  used: joins so far.
    Returns joins, join_score and table, larger if need be, and how many joins there are.
    """
    values, marks, values2, marks2 = beams[0], beams[1], after[0], after[1]
    G, path, path_n = stays[0], stays[1], stays[2]
    XF, XI = ways[0], ways[1]
    nodes, node_score, words, word_score = read
    for o in range(count):
        places[idx[o]] = o
    for d in range(dropped):
        o = places[leader[d]]
        into = marks2[WORDS, o] if o >= 0 else -1
        if into < 0:
            continue
        x = np.int64(lost[d])
        if x < alive:
            reading = marks[WORDS, x]
            at = path[x] if G[VB, x] >= G[VN, x] else path_n[x]
            acoustic, lm = max(G[VB, x], G[VN, x]), values[BONUS, x]
            word = np.int64(-1)
        else:
            x -= alive
            j = XI[X_FROM, x]
            reading = marks[WORDS, j]
            at = marks[PATH_B, j] if XI[X_TOKEN, x] == marks[LAST, j] else path[j]
            acoustic, lm = XF[X_GAIN, x], XF[X_BONUS, x]
            word = np.int64(XI[X_WORD, x])
        if word < 0:  # it is within a word
            if reading < 0:
                continue
            word = np.int64(words[1, reading])
            reading = words[0, reading]
            at = nodes[0, word_begin(nodes, begins, at)]
        if values2[VB, o] >= values2[VN, o]:
            to = marks2[PATH_B, o]
            acoustic = acoustic - values2[VB, o]
        else:
            to = marks2[PATH_N, o]
            acoustic = acoustic - values2[VN, o]
        acoustic = acoustic + node_score[0, word_begin(nodes, begins, to)]
        lm = lm - values2[BONUS, o] + word_score[0, into]
        if reading >= 0:
            acoustic = acoustic - node_score[0, word_begin(nodes, begins, at)]
            lm = lm - word_score[0, reading]
        if used == joins.shape[1]:
            joins = resized(joins, used, 2 * used)
            join_score = resized(join_score, used, 2 * used)
            table = index_joins(joins, used, 4 * joins.shape[1])
        slot = find_join(table, joins, reading, word, into)
        known_join = table[slot]
        if known_join < 0:
            known_join = used
            table[slot] = used
            used += 1
        elif not acoustic > join_score[0, known_join]:
            continue
        joins[J_READING, known_join] = reading
        joins[J_INTO, known_join] = into
        joins[J_WORD, known_join] = word
        joins[J_TOKEN, known_join] = at
        join_score[0, known_join] = acoustic
        join_score[1, known_join] = lm
    return joins, join_score, table, used
