"""A frame of the search but for its extensions: the best tokens, the prefixes that stay, and those that two ways lead to."""

from __future__ import annotations

import math

import numpy as np

from samba_asr.decoding.compiled.jit import jit
from samba_asr.decoding.compiled.layout import (
    ALIKE,
    BONUS,
    CREDIT,
    LAST,
    NAME,
    PARENT,
    PATH_B,
    PATH_N,
    PB,
    PN,
    VB,
    VN,
    P,
)  # fmt: skip
from samba_asr.decoding.compiled.lookup import find_name, logaddexp, mix

INF = math.inf
U64 = np.uint64


@jit
def only_blank(values, marks, alive, blank):
    """Let every prefix stay, for a frame whose only token is the blank."""
    for j in range(alive):
        values[P, j] += blank
        values[PB, j] = values[P, j]
        if not values[VB, j] >= values[VN, j]:
            marks[PATH_B, j] = marks[PATH_N, j]
        values[VB, j] = max(values[VB, j], values[VN, j]) + blank
        values[PN, j] = -INF
        values[VN, j] = -INF


@jit
def best_tokens(frame, tokens, best):
    """List the best tokens but the blank, of equal ones the lower id first; returns how many.

    frame (v,).  tokens, best: filled with ids and log-probabilities.
    """
    listed = 0
    for x in range(1, len(frame)):
        y = frame[x]
        if listed < len(tokens):
            j = listed
            listed += 1
        elif y > best[len(tokens) - 1]:
            j = len(tokens) - 1
        else:
            continue
        while j > 0 and best[j - 1] < y:
            best[j] = best[j - 1]
            tokens[j] = tokens[j - 1]
            j -= 1
        best[j] = y
        tokens[j] = x
    return listed


@jit
def stay(beams, alive, frame, blank, stays, table):
    """Compute each beam without a new token, and hash the beams by name into `table`."""
    values, marks, names = beams
    G, path, path_n, again, v_best = stays
    mask = U64(len(table) - 1)
    for s in range(len(table)):
        table[s] = -1
    for j in range(alive):
        if values[VB, j] >= values[VN, j]:
            v_best[j] = values[VB, j]
            path[j] = marks[PATH_B, j]
        else:
            v_best[j] = values[VN, j]
            path[j] = marks[PATH_N, j]
        again[j] = frame[max(marks[LAST, j], 0)]
        G[PB, j] = values[P, j] + blank
        G[PN, j] = values[PN, j] + again[j]
        G[VB, j] = v_best[j] + blank
        G[VN, j] = values[VN, j] + again[j]
        path_n[j] = marks[PATH_N, j]
        s = names[NAME, j] & mask
        while table[s] >= 0:
            s = (s + U64(1)) & mask
        table[s] = j


@jit
def merge(beams, alive, time, tokens, best, listed, stays, table, nodes, node_score, node_count, score, alike):
    """Add what parents among the beams give: where beam i is the parent of beam j, i's extension by j's last token is j itself.

    Fills score and alike of the beams.  Returns the best score without credit, of beams and extensions, and the number of nodes.
    """
    values, marks, names = beams
    G, path, path_n, again, v_best = stays
    top = -INF
    for j in range(alive):
        i = find_name(table, names, names[PARENT, j])
        if i >= 0:
            twin = marks[LAST, j] == marks[LAST, i]
            G[PN, j] = logaddexp(G[PN, j], (values[PB, i] if twin else values[P, i]) + again[j])
            viterbi = values[VB, i] if twin else v_best[i]
            gain = viterbi + again[j]
            if gain > G[VN, j]:
                G[VN, j] = gain
                nodes[0, node_count] = marks[PATH_B, i] if twin else path[i]
                nodes[1, node_count] = marks[LAST, j]
                nodes[2, node_count] = time
                node_score[0, node_count] = viterbi
                path_n[j] = node_count
                node_count += 1
        G[P, j] = logaddexp(G[PB, j], G[PN, j])
        score[j] = G[P, j] + values[BONUS, j]
        alike[j] = mix(names[ALIKE, j], marks[LAST, j] + 1)
        top = max(top, score[j] - values[CREDIT, j])
        for q in range(min(listed, 2)):  # one of the two best tokens gives the best extension
            y = (values[PB, j] if tokens[q] == marks[LAST, j] else values[P, j]) + best[q]
            top = max(top, y + values[BONUS, j] - values[CREDIT, j])
    return top, node_count
