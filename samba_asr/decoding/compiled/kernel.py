"""Prefix beam search of one row, frame by frame, over flat arrays; compiled by numba.

`samba_asr.decoding.prefix_beam` and `samba_asr.decoding.words` define every step: the same sums in the same order, the same
order of equal scores, so the same bits.  Here is no Python object: prefixes are columns of three arrays, alignments and words are
linked nodes in two more.  A step reads the old arrays and makes new ones, so old states stay valid and rows may run in threads
(`nogil`).

    values (9, w) float64, marks (8, w) int32, names (3, w) uint64
                           by beam: their rows are in `samba_asr.decoding.compiled.layout`
    nodes (3, n) int32     alignments: node before (-1: none), token, frame
    node_score (1, n) float64  Viterbi score before the token
    words (2, m) int32     words read: entry before (-1: none), word (those of the session after those of the model)
    word_score (1, m) float64  score of the guides when the next word began, without look-ahead
    joins (4, q) int32     what recombination dropped, for a lattice: rows in `layout`
    join_score (2, q) float64  its acoustic and LM score
    tree, more             lexicon, and words of the session: `samba_asr.decoding.compiled.tables.Tree`
    grams, hot             n-gram model and hotword automaton: `Grams` and `Hot` there

    w  places for beams, of which `beam` are for prefixes without credit     t  frames     v  ids     n  extensions of a frame

Beams that are alive come first.  All of this runs in plain Python too, if numba's JIT is disabled.
"""

from __future__ import annotations

import math

import numpy as np

from samba_asr.decoding.compiled.extend import extend
from samba_asr.decoding.compiled.frame import best_tokens, merge, only_blank, stay
from samba_asr.decoding.compiled.jit import jit
from samba_asr.decoding.compiled.joins import index_joins, remember
from samba_asr.decoding.compiled.keep import keep
from samba_asr.decoding.compiled.layout import (
    CREDIT,
    J_INTO,
    J_READING,
    J_TOKEN,
    PATH_B,
    PATH_N,
    VB,
    VN,
    WORDS,
    X_CREDIT,
    P,
)  # fmt: skip
from samba_asr.decoding.compiled.links import compact, resized
from samba_asr.decoding.compiled.lookup import CACHE
from samba_asr.decoding.compiled.order import BUCKETS, best_with_credit, limit_alike, rank

INF = math.inf
U64 = np.uint64


@jit
def clear_dead(values, marks, names, alive):
    """Clear the places of dropped beams, and the links that no alignment uses, so that `compact` frees what they reach."""
    for j in range(values.shape[1]):
        if j >= max(alive, 1):
            for r in range(values.shape[0]):
                values[r, j] = -INF if r <= P else 0.0
            for r in range(marks.shape[0]):
                marks[r, j] = -1 if r in (WORDS, PATH_B, PATH_N) else 0
            for r in range(names.shape[0]):
                names[r, j] = U64(0)
        elif alive > 0:
            if values[VB, j] == -INF:
                marks[PATH_B, j] = -1
            if values[VN, j] == -INF:
                marks[PATH_N, j] = -1


@jit
def run(
    tree, more, grams, hot, begins, frames, values, marks, names, nodes, node_score, words, word_score, joins, join_score,
    options, scores,
):  # fmt: skip
    """Process frames (t, v) float64 of one row; returns (0, values, marks, names, nodes, ... join_score).

    options: (beam, candidates, recombine (0: no limit), the model's words, <unk> or -1, frames before, whether words guide,
        room for extensions, words that end in one node)
    scores: (weight, bonus, log of the probability from which a blank is alone, prune, width of the lattice or 0)
    If there are more extensions than room, the number comes back first, and the state as it was: call again with more room.
    """
    beam, candidates, recombine, known, unknown, begin, worded, room, homophones = options
    weight, word_bonus, log_silent, prune, width = scores
    guides, rules = (tree, more, grams, hot), (known, unknown, worded, weight, word_bonus)
    t, v = frames.shape
    w = values.shape[1]
    hotted = len(hot[3]) > 1
    values, marks, names = values.copy(), marks.copy(), names.copy()
    values2, marks2, names2 = np.empty_like(values), np.empty_like(marks), np.empty_like(names)  # the next frame's
    node_count, word_count = nodes.shape[1], words.shape[1]
    join_count = joins.shape[1]
    nodes = resized(nodes, node_count, 2 * node_count + 8 * w)
    node_score = resized(node_score, node_count, nodes.shape[1])
    words = resized(words, word_count, 2 * word_count + 4 * w)
    word_score = resized(word_score, word_count, words.shape[1])
    joined = worded and width > 0 and recombine > 0
    if joined:
        joins = resized(joins, join_count, 2 * join_count + 64)
        join_score = resized(join_score, join_count, joins.shape[1])
    join_table = index_joins(joins, join_count, 4 * joins.shape[1] if joined else 1)
    # What stays, with its alignments; extensions; their order; hash tables; n-gram scores; the ends of a beam.
    stays = (np.empty((5, w)), np.empty(w, np.int32), np.empty(w, np.int32), np.empty(w), np.empty(w))
    ways = (np.empty((7, room)), np.empty((7, room), np.int32), np.empty((2, room), U64))
    score, alike, credit = np.empty(w + room), np.empty(w + room, U64), np.empty(w + room)
    idx, tmp, buckets = np.empty(w + room, np.int32), np.empty(w + room, np.int32), np.empty(BUCKETS + 1, np.int32)
    slots = 16
    while slots < 4 * w:
        slots *= 2
    table, keys, times = np.empty(slots, np.int32), np.empty(slots, U64), np.empty(slots, np.int32)
    firsts, places = np.empty(slots, np.int32), np.empty(w + room, np.int32)
    lost, leader = np.empty(room + w, np.int32), np.empty(room + w, np.int32)
    candidates = min(candidates, v - 1)
    tokens, best = np.empty(candidates, np.int64), np.empty(candidates)
    cached = (np.full(CACHE, -1, np.int64), np.empty(CACHE), np.empty(CACHE, np.int64), np.empty(len(grams[5])))
    endings = (np.empty(homophones), np.empty(homophones, np.int64), np.empty(homophones, np.int64))
    alive = 0
    while alive < w and values[P, alive] > -INF:
        alive += 1
    for f in range(t):
        if alive == 0:  # nothing is possible any more
            break
        time, blank = begin + f, frames[f, 0]
        if blank >= log_silent:  # blank alone: every prefix stays
            only_blank(values, marks, alive, blank)
            continue
        if node_count + 2 * w > nodes.shape[1] or word_count + w > words.shape[1]:
            clear_dead(values, marks, names, alive)
            node_count = compact(
                nodes, node_score, node_count, marks, PATH_B, PATH_N + 1, joins, join_count, J_TOKEN, J_TOKEN + 1
            )
            word_count = compact(
                words, word_score, word_count, marks, WORDS, WORDS + 1, joins, join_count, J_READING, J_INTO + 1
            )
            nodes = resized(nodes, node_count, 2 * node_count + 8 * w)
            node_score = resized(node_score, node_count, nodes.shape[1])
            words = resized(words, word_count, 2 * word_count + 4 * w)
            word_score = resized(word_score, word_count, words.shape[1])
            join_table = index_joins(joins, join_count, len(join_table))

        beams, after = (values, marks, names), (values2, marks2, names2)
        listed = best_tokens(frames[f], tokens, best)
        stay(beams, alive, frames[f], blank, stays, table)
        top, node_count = merge(
            beams, alive, time, tokens, best, listed, stays, table, nodes, node_score, node_count, score, alike
        )  # fmt: skip
        n = extend(
            beams, alive, top - prune, tokens, best, listed, stays, table, begins, guides, rules, cached, endings, ways, score,
            alike,
        )  # fmt: skip
        if n > room:
            return (
                n, values, marks, names, nodes, node_score, words, word_score, joins, join_score,
            )  # fmt: skip

        # Keep the best, sorted.
        count = rank(score, alive + n, idx, tmp, buckets)
        dropped = 0
        if recombine > 0:
            if hotted and 4 * count > len(times):
                keys = np.empty(8 * count, U64)
                times = np.empty(8 * count, np.int32)
                firsts = np.empty(8 * count, np.int32)
            least = score[idx[0]] - width if joined and count > 0 else INF
            count, dropped = limit_alike(
                score, alike, idx, count, recombine, keys, times, -1 if hotted else beam, firsts, least, lost, leader
            )
        if hotted:
            for x in range(alive + n):
                credit[x] = values[CREDIT, x] if x < alive else ways[0][X_CREDIT, x - alive]
            count = best_with_credit(score, credit, alive + n, beam, w, idx, count, tmp, buckets)
        count = min(count, w if hotted else beam)
        node_count, word_count = keep(
            beams, after, alive, time, stays, ways, idx, count, tree, more, nodes, node_score, node_count, words, word_score,
            word_count,
        )  # fmt: skip
        if dropped > 0:
            places[: alive + n] = -1
            joins, join_score, join_table, join_count = remember(
                beams, after, alive, stays, ways, idx, count, lost, leader, dropped, places, begins,
                (nodes, node_score, words, word_score), joins, join_score, join_table, join_count,
            )  # fmt: skip
        values, values2 = values2, values
        marks, marks2 = marks2, marks
        names, names2 = names2, names
        alive = count
    clear_dead(values, marks, names, alive)
    node_count = compact(
        nodes, node_score, node_count, marks, PATH_B, PATH_N + 1, joins, join_count, J_TOKEN, J_TOKEN + 1
    )
    word_count = compact(
        words, word_score, word_count, marks, WORDS, WORDS + 1, joins, join_count, J_READING, J_INTO + 1
    )
    return (
        0, values, marks, names, resized(nodes, node_count, node_count), resized(node_score, node_count, node_count),
        resized(words, word_count, word_count), resized(word_score, word_count, word_count),
        resized(joins, join_count, join_count), resized(join_score, join_count, join_count),
    )  # fmt: skip
