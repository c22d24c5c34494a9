"""Prefix beam search of one row, frame by frame, over flat arrays; compiled by numba.

`samba_asr.decoding.prefix_beam` and `samba_asr.decoding.words` define every step: the same sums in the same order, the same
order of equal scores, so the same bits.  Here is no Python object: prefixes are columns of three arrays, alignments and words are
linked nodes in two more.  A step reads the old arrays and makes new ones, so old states stay valid and rows may run in threads
(`nogil`).

    values (9, w) float64  by beam: see `PB` .. `KEPT`
    marks (8, w) int32     by beam: see `LAST` .. `HOT`
    names (3, w) uint64    by beam: name, name of the parent, recombination key
    nodes (3, n) int32     alignments: node before (-1: none), token, frame
    node_score (1, n) float64  Viterbi score before the token
    words (2, m) int32     words read: entry before (-1: none), word (those of the session after those of the model)
    word_score (1, m) float64  score of the guides when the next word began, without look-ahead
    joins (4, q) int32     what recombination dropped, for a lattice: see `J_READING` .. `J_TOKEN`
    join_score (2, q) float64  its acoustic and LM score
    tree, more             lexicon, and words of the session: `samba_asr.decoding.compiled.tables.Tree`
    grams, hot             n-gram model and hotword automaton: `Grams` and `Hot` there

    w  places for beams, of which `beam` are for prefixes without credit     t  frames     v  ids     n  extensions of a frame

Beams that are alive come first.  All of this runs in plain Python too, if numba's JIT is disabled.
"""

from __future__ import annotations

import math

import numpy as np

from samba_asr.decoding.compiled.jit import jit
from samba_asr.decoding.compiled.joins import find_join, index_joins, word_begin
from samba_asr.decoding.compiled.links import compact, resized
from samba_asr.decoding.compiled.lookup import (
    CACHE,
    begin_word,
    child_of,
    find_name,
    gram_score,
    hot_move,
    logaddexp,
    mix,
    name_of,
)
from samba_asr.decoding.compiled.order import BUCKETS, best_with_credit, limit_alike, rank

PB, PN, VB, VN, P, BASE, BONUS, CREDIT, KEPT = range(9)
"""Rows of `values`: log-probabilities of `BeamState` (P is logaddexp(PB, PN)); score of the complete words; bonus, and the part
of it that may be taken back; score of hotwords that are no longer in the automaton's path."""
LAST, NODE, PRIVATE, CONTEXT, WORDS, PATH_B, PATH_N, HOT = range(8)
"""Rows of `marks`: last token; node of the last word in its tree, and whether that is the session's tree; n-gram context; entry
of the words; nodes of the two best alignments; node of the hotword automaton."""
J_READING, J_INTO, J_WORD, J_TOKEN = range(4)
"""Rows of `joins`: entry of `words` after which `J_WORD` was said; entry that it leads to; node of the alignment before it."""
NAME, PARENT, ALIKE = range(3)
"""Rows of `names`."""

INF = math.inf
UNFINISHED = -50.0  # as samba_asr.decoding.words; a test compares them
UNKNOWN_SCORE = -15.0
U64 = np.uint64
X_MORE, X_GAIN, X_BASE, X_BONUS, X_CREDIT, X_KEPT, X_VITERBI = range(
    7
)  # extensions, as the rows of `values` and `marks`
X_FROM, X_TOKEN, X_NODE, X_PRIVATE, X_CONTEXT, X_WORD, X_HOT = range(7)


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
    first, child_token, child_node, root, ends_first, ends_word, ahead, start = tree
    first_m, child_token_m, child_node_m, root_m, ends_first_m, ends_word_m, ahead_m, start_m = more
    successors, gram_word, log_prob, backoff, link, level = grams
    hot_first, hot_token, hot_child, hot_fail, hot_score, hot_credit, hot_before, hot_complete = hot
    t, v = frames.shape
    w = values.shape[1]
    hotted = len(hot_fail) > 1
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
    G, path, path_n, again, v_best = (
        np.empty((5, w)),
        np.empty(w, np.int32),
        np.empty(w, np.int32),
        np.empty(w),
        np.empty(w),
    )
    XF, XI, XU = np.empty((7, room)), np.empty((7, room), np.int32), np.empty((2, room), U64)
    score, alike, credit = np.empty(w + room), np.empty(w + room, U64), np.empty(w + room)
    idx, tmp, buckets = np.empty(w + room, np.int32), np.empty(w + room, np.int32), np.empty(BUCKETS + 1, np.int32)
    slots = 16
    while slots < 4 * w:
        slots *= 2
    table, keys, times = np.empty(slots, np.int32), np.empty(slots, U64), np.empty(slots, np.int32)
    firsts, places = np.empty(slots, np.int32), np.empty(w + room, np.int32)
    lost, leader = np.empty(room + w, np.int32), np.empty(room + w, np.int32)
    mask = U64(slots - 1)
    candidates = min(candidates, v - 1)
    tokens, best = np.empty(candidates, np.int64), np.empty(candidates)
    paid = np.empty(len(level))
    cache_key, cache_score, cache_after = np.full(CACHE, -1, np.int64), np.empty(CACHE), np.empty(CACHE, np.int64)
    end_gain, end_context = np.empty(homophones), np.empty(homophones, np.int64)
    end_word = np.empty(homophones, np.int64)
    alive = 0
    while alive < w and values[P, alive] > -INF:
        alive += 1
    for f in range(t):
        if alive == 0:  # nothing is possible any more
            break
        blank = frames[f, 0]
        if blank >= log_silent:  # blank alone: every prefix stays
            for j in range(alive):
                values[P, j] += blank
                values[PB, j] = values[P, j]
                if not values[VB, j] >= values[VN, j]:
                    marks[PATH_B, j] = marks[PATH_N, j]
                values[VB, j] = max(values[VB, j], values[VN, j]) + blank
                values[PN, j] = -INF
                values[VN, j] = -INF
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

        # The best tokens, of equal ones the lower id first.
        listed = 0
        for x in range(1, v):
            y = frames[f, x]
            if listed < candidates:
                j = listed
                listed += 1
            elif y > best[candidates - 1]:
                j = candidates - 1
            else:
                continue
            while j > 0 and best[j - 1] < y:
                best[j] = best[j - 1]
                tokens[j] = tokens[j - 1]
                j -= 1
            best[j] = y
            tokens[j] = x

        # Stay.
        for s in range(slots):
            table[s] = -1
        for j in range(alive):
            if values[VB, j] >= values[VN, j]:
                v_best[j] = values[VB, j]
                path[j] = marks[PATH_B, j]
            else:
                v_best[j] = values[VN, j]
                path[j] = marks[PATH_N, j]
            again[j] = frames[f, max(marks[LAST, j], 0)]
            G[PB, j] = values[P, j] + blank
            G[PN, j] = values[PN, j] + again[j]
            G[VB, j] = v_best[j] + blank
            G[VN, j] = values[VN, j] + again[j]
            path_n[j] = marks[PATH_N, j]
            s = names[NAME, j] & mask
            while table[s] >= 0:
                s = (s + U64(1)) & mask
            table[s] = j

        # Merge: where beam i is the parent of beam j, i's extension by j's last token is j itself.
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
                    nodes[2, node_count] = begin + f
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
        floor = top - prune

        # Extend.
        n = 0
        for j in range(alive):
            ends = -1  # words that end in this beam; found when they are needed
            node, private, context = np.int64(marks[NODE, j]), np.int64(marks[PRIVATE, j]), np.int64(marks[CONTEXT, j])
            for q in range(listed):
                y = values[P, j] + best[q] + values[BONUS, j]
                if not max(y, y - values[CREDIT, j]) >= floor:
                    break  # the next tokens have less
                token = tokens[q]
                twin = token == marks[LAST, j]
                p = (values[PB, j] if twin else values[P, j]) + best[q]
                y = p + values[BONUS, j]
                if not (max(y, y - values[CREDIT, j]) >= floor and y > -INF):
                    continue
                count = 1
                goes_on = False
                to = np.int64(-1)
                to_m = np.int64(-1)
                if worded:
                    goes_on = not begins[token] and node != 0
                    if goes_on:
                        if private:
                            to = child_of(first_m, child_token_m, child_node_m, node, token)
                        else:
                            to = child_of(first, child_token, child_node, node, token)
                        if to < 0:
                            continue
                    else:
                        to = begin_word(first, child_token, child_node, root, start[0], node, token)
                        to_m = begin_word(first_m, child_token_m, child_node_m, root_m, start_m[0], node, token)
                        if to < 0 and to_m < 0:
                            continue
                        if ends < 0 and node == 0:
                            ends = 1
                            end_gain[0] = 0.0
                            end_context[0] = context
                            end_word[0] = -1
                        elif ends < 0:
                            low = ends_first_m[node] if private else ends_first[node]
                            ends = (ends_first_m[node + 1] if private else ends_first[node + 1]) - low
                            for e in range(ends):
                                word = np.int64(ends_word_m[low + e] if private else ends_word[low + e])
                                asked = unknown if private else word
                                y = UNKNOWN_SCORE
                                after = np.int64(0)
                                if asked >= 0:
                                    key = (context << 32) | asked
                                    s = (context * 31 + asked) & (CACHE - 1)
                                    if cache_key[s] != key:  # successive frames ask for the same words
                                        cache_score[s], cache_after[s] = gram_score(
                                            successors, gram_word, log_prob, backoff, link, level, paid, context, asked
                                        )
                                        cache_key[s] = key
                                    y = cache_score[s]
                                    after = cache_after[s]
                                if private:
                                    y = max(y, UNKNOWN_SCORE)
                                end_gain[e] = weight * y + word_bonus
                                end_context[e] = after
                                end_word[e] = word + known if private else word
                        count = ends * ((1 if to >= 0 else 0) + (1 if to_m >= 0 else 0))
                if n + count > room:
                    return (
                        n + count, values, marks, names, nodes, node_score, words, word_score, joins, join_score,
                    )  # fmt: skip
                hot_next = np.int64(0)
                kept = 0.0
                if hotted:
                    on, hot_next = hot_move(hot_first, hot_token, hot_child, hot_fail, marks[HOT, j], token)
                    if begins[token]:
                        kept = values[KEPT, j] + (hot_complete[marks[HOT, j]] - hot_complete[on])
                    else:
                        kept = values[KEPT, j] + (hot_before[marks[HOT, j]] - hot_before[on])
                for e in range(count):
                    base = 0.0
                    bonus = 0.0
                    label = np.int64(0)
                    alike_key = U64(0)
                    target = np.int64(0)
                    ours = 0
                    after = context
                    word = np.int64(-1)
                    if goes_on:
                        base = values[BASE, j]
                        target = to
                        ours = private
                        bonus = (ahead_m[to] if private else ahead[to]) + base
                    elif worded:
                        ours = 1 if e >= ends or to < 0 else 0  # after those of the lexicon, the session's
                        at = e - ends if e >= ends else e
                        base = values[BASE, j] + end_gain[at]
                        after = end_context[at]
                        word = end_word[at]
                        target = to_m if ours else to
                        bonus = base + (ahead_m[target] if ours else ahead[target])
                        label = 2 * (1 + word - (known if word >= known else 0)) + ours
                    if worded:
                        alike_key = mix(U64(0), (((after << 1) | ours) << 31) | target)  # no two pairs have one key
                    name = name_of(names[NAME, j], token, label)
                    if find_name(table, names, name) >= 0:
                        continue  # a beam already; it was merged above
                    if hotted:
                        bonus += kept + hot_score[hot_next]
                        alike_key = mix(alike_key, hot_next)
                    elif not worded:
                        alike_key = name
                    XF[X_MORE, n] = p
                    XF[X_VITERBI, n] = values[VB, j] if twin else v_best[j]
                    XF[X_GAIN, n] = XF[X_VITERBI, n] + best[q]
                    XF[X_BASE, n] = base
                    XF[X_BONUS, n] = bonus
                    XF[X_CREDIT, n] = hot_credit[hot_next] if hotted else 0.0
                    XF[X_KEPT, n] = kept
                    XI[X_FROM, n] = j
                    XI[X_TOKEN, n] = token
                    XI[X_NODE, n] = target
                    XI[X_PRIVATE, n] = ours
                    XI[X_CONTEXT, n] = after
                    XI[X_WORD, n] = word
                    XI[X_HOT, n] = hot_next
                    XU[0, n] = name
                    XU[1, n] = alike_key
                    score[alive + n] = p + bonus
                    alike[alive + n] = mix(alike_key, token + 1)
                    n += 1

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
                credit[x] = values[CREDIT, x] if x < alive else XF[X_CREDIT, x - alive]
            count = best_with_credit(score, credit, alive + n, beam, w, idx, count, tmp, buckets)
        count = min(count, w if hotted else beam)
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
            nodes[2, node_count] = begin + f
            node_score[0, node_count] = XF[X_VITERBI, x]
            marks2[PATH_B, o] = -1
            marks2[PATH_N, o] = node_count
            node_count += 1
            names2[NAME, o] = XU[0, x]
            names2[PARENT, o] = names[NAME, j]
            names2[ALIKE, o] = XU[1, x]

        # What recombination dropped, and what is kept in its place, as samba_asr.decoding.joins.
        if dropped > 0:
            for x in range(alive + n):
                places[x] = -1
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
            if join_count == joins.shape[1]:
                joins = resized(joins, join_count, 2 * join_count)
                join_score = resized(join_score, join_count, 2 * join_count)
                join_table = index_joins(joins, join_count, 4 * joins.shape[1])
            slot = find_join(join_table, joins, reading, word, into)
            known_join = join_table[slot]
            if known_join < 0:
                known_join = join_count
                join_table[slot] = join_count
                join_count += 1
            elif not acoustic > join_score[0, known_join]:
                continue
            joins[J_READING, known_join] = reading
            joins[J_INTO, known_join] = into
            joins[J_WORD, known_join] = word
            joins[J_TOKEN, known_join] = at
            join_score[0, known_join] = acoustic
            join_score[1, known_join] = lm
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


@jit
def finish(tree, more, grams, hot, values, marks, names, words, options, scores):
    """Score each prefix as a whole text and sort them again; returns the new values, marks, names, words.

    options: (the model's words, <unk> or -1, </s>, whether words guide).  scores: (weight, bonus)
    """
    known, unknown, closing, worded = options
    weight, word_bonus = scores
    ends_first, ends_word, start = tree[4], tree[5], tree[7]
    ends_first_m, ends_word_m, start_m = more[4], more[5], more[7]
    successors, gram_word, log_prob, backoff, link, level = grams
    hot_fail, hot_complete = hot[3], hot[7]
    w = values.shape[1]
    values, marks = values.copy(), marks.copy()
    word_count = words.shape[1]
    words = resized(words, word_count, word_count + w)
    paid = np.empty(len(level))
    score = np.full(w, -INF)
    for j in range(w):
        if values[P, j] == -INF:
            break
        bonus = 0.0
        if worded:
            node, private, context = np.int64(marks[NODE, j]), marks[PRIVATE, j] != 0, np.int64(marks[CONTEXT, j])
            best_gain = -INF
            best_context = context
            best_word = np.int64(-1)
            low = ends_first_m[node] if private else ends_first[node]
            ends = (ends_first_m[node + 1] if private else ends_first[node + 1]) - low
            words_end = ends > 0 and node != 0
            for e in range(ends if words_end else 1):  # where no word ends: between words, or within one
                word = np.int64(-1)
                after = context
                gain = 0.0 if node == 0 or node == (start_m[0] if private else start[0]) else UNFINISHED
                if words_end:
                    word = np.int64(ends_word_m[low + e] if private else ends_word[low + e])
                    asked = unknown if private else word
                    y = UNKNOWN_SCORE
                    after = np.int64(0)
                    if asked >= 0:
                        y, after = gram_score(
                            successors, gram_word, log_prob, backoff, link, level, paid, context, asked
                        )
                    if private:
                        y = max(y, UNKNOWN_SCORE)
                        word += known
                    gain = weight * y + word_bonus
                y, _ = gram_score(successors, gram_word, log_prob, backoff, link, level, paid, after, closing)
                gain += weight * y
                if gain > best_gain:
                    best_gain = gain
                    best_context = after
                    best_word = word
            if best_word >= 0:
                words[0, word_count] = marks[WORDS, j]
                words[1, word_count] = best_word
                marks[WORDS, j] = word_count
                word_count += 1
            values[BASE, j] += best_gain
            bonus = values[BASE, j]
            marks[NODE, j] = 0
            marks[PRIVATE, j] = 0
            marks[CONTEXT, j] = best_context
        if len(hot_fail) > 1:
            values[KEPT, j] += hot_complete[marks[HOT, j]]
            marks[HOT, j] = 0
            bonus += values[KEPT, j]
        values[BONUS, j] = bonus
        values[CREDIT, j] = 0.0
        score[j] = values[P, j] + bonus
    idx, tmp, buckets = np.empty(w, np.int32), np.empty(w, np.int32), np.empty(BUCKETS + 1, np.int32)
    count = rank(score, w, idx, tmp, buckets)
    values2, marks2, names2 = values.copy(), marks.copy(), names.copy()
    for o in range(count):
        for r in range(9):
            values2[r, o] = values[r, idx[o]]
        for r in range(8):
            marks2[r, o] = marks[r, idx[o]]
        for r in range(3):
            names2[r, o] = names[r, idx[o]]
    return values2, marks2, names2, resized(words, word_count, word_count)
