"""End of a row of the search: each prefix is scored as a whole text."""

from __future__ import annotations

import math

import numpy as np

from samba_asr.decoding.compiled.jit import jit
from samba_asr.decoding.compiled.layout import (
    BASE,
    BONUS,
    CONTEXT,
    CREDIT,
    HOT,
    KEPT,
    NODE,
    PRIVATE,
    UNFINISHED,
    UNKNOWN_SCORE,
    WORDS,
    P,
)  # fmt: skip
from samba_asr.decoding.compiled.links import resized
from samba_asr.decoding.compiled.lookup import gram_score
from samba_asr.decoding.compiled.order import BUCKETS, rank

INF = math.inf


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
