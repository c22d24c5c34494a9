"""Beams of the next frame: those that stay and the extensions that are kept, best first."""

from __future__ import annotations

import math

import numpy as np

from samba_asr.decoding.compiled.jit import jit
from samba_asr.decoding.compiled.layout import (
    ALIKE,
    BASE,
    BONUS,
    CONTEXT,
    CREDIT,
    HOT,
    KEPT,
    LAST,
    NAME,
    NODE,
    PARENT,
    PATH_B,
    PATH_N,
    PB,
    PN,
    PRIVATE,
    VB,
    VN,
    WORDS,
    X_BASE,
    X_BONUS,
    X_CONTEXT,
    X_CREDIT,
    X_FROM,
    X_GAIN,
    X_HOT,
    X_KEPT,
    X_MORE,
    X_NODE,
    X_PRIVATE,
    X_TOKEN,
    X_VITERBI,
    X_WORD,
    P,
)  # fmt: skip

INF = math.inf


@jit
def keep(
    beams, after, alive, time, stays, ways, idx, count, tree, more, nodes, node_score, node_count, words, word_score,
    word_count,
):  # fmt: skip
    """Write beams idx[:count] into `after`: first come those that stay, then extensions, which get a node and maybe a word.

    Returns the numbers of nodes and words.
    """
    values, marks, names = beams
    values2, marks2, names2 = after
    G, path, path_n = stays[0], stays[1], stays[2]
    XF, XI, XU = ways
    ahead, ahead_m = tree[6], more[6]
    for o in range(max(count, 1)):  # if nothing is possible, the best prefix stays, with probability 0
        x = np.int64(idx[o]) if count > 0 else 0
        if x < alive:
            for r in range(5):
                values2[r, o] = G[r, x] if count > 0 else -INF
            for r in range(5, 9):
                values2[r, o] = values[r, x]
            for r in range(8):
                marks2[r, o] = marks[r, x]
            marks2[PATH_B, o] = path[x]
            marks2[PATH_N, o] = path_n[x]
            for r in range(3):
                names2[r, o] = names[r, x]
            continue
        x -= alive
        j = XI[X_FROM, x]
        token = XI[X_TOKEN, x]
        values2[PB, o] = -INF
        values2[VB, o] = -INF
        values2[PN, o] = XF[X_MORE, x]
        values2[P, o] = XF[X_MORE, x]
        values2[VN, o] = XF[X_GAIN, x]
        values2[BASE, o] = XF[X_BASE, x]
        values2[BONUS, o] = XF[X_BONUS, x]
        values2[CREDIT, o] = XF[X_CREDIT, x]
        values2[KEPT, o] = XF[X_KEPT, x]
        marks2[LAST, o] = token
        marks2[NODE, o] = XI[X_NODE, x]
        marks2[PRIVATE, o] = XI[X_PRIVATE, x]
        marks2[CONTEXT, o] = XI[X_CONTEXT, x]
        marks2[HOT, o] = XI[X_HOT, x]
        marks2[WORDS, o] = marks[WORDS, j]
        if XI[X_WORD, x] >= 0:
            words[0, word_count] = marks[WORDS, j]
            words[1, word_count] = XI[X_WORD, x]
            first_node = XI[X_NODE, x]
            word_score[0, word_count] = XF[X_BONUS, x] - (
                ahead_m[first_node] if XI[X_PRIVATE, x] else ahead[first_node]
            )
            marks2[WORDS, o] = word_count
            word_count += 1
        nodes[0, node_count] = marks[PATH_B, j] if token == marks[LAST, j] else path[j]
        nodes[1, node_count] = token
        nodes[2, node_count] = time
        node_score[0, node_count] = XF[X_VITERBI, x]
        marks2[PATH_B, o] = -1
        marks2[PATH_N, o] = node_count
        node_count += 1
        names2[NAME, o] = XU[0, x]
        names2[PARENT, o] = names[NAME, j]
        names2[ALIKE, o] = XU[1, x]
    return node_count, word_count
