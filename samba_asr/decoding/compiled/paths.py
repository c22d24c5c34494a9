"""Compiled functions on what a search found: words that all its texts share, and the alignment of a text to frames."""

from __future__ import annotations

import math

import numpy as np

from samba_asr.decoding.compiled.jit import jit

INF = math.inf


@jit
def text_of(entry, words, known, same):
    """Return the words up to an entry of `words` (2, m), in order.

    known: the model's words.  same: of each word of the session, its number among those, or a number after them.
    """
    n, at = 0, entry
    while at >= 0:
        n += 1
        at = words[0, at]
    found = np.empty(n, np.int32)
    at = entry
    while at >= 0:
        n -= 1
        word = words[1, at]
        found[n] = word if word < known else same[word - known]
        at = words[0, at]
    return found


@jit
def shared(entries, open_words, words, known, same, first, count):
    """Return how many words at the beginning are `first`'s in all texts, and the last of none: `count`, or fewer.

    entries, open_words (k,): the last complete word of each text, as an entry of `words`; the node of the incomplete one, or 0.
    """
    for j in range(len(entries)):
        n, at = 0, entries[j]
        while at >= 0:
            n += 1
            at = words[0, at]
        count = min(count, n if open_words[j] != 0 else n - 1)
        at = entries[j]
        while at >= 0:
            n -= 1
            word = words[1, at]
            if n < count and (word if word < known else same[word - known]) != first[n]:
                count = n
            at = words[0, at]
    return max(count, 0)


@jit
def viterbi(log_probs, labels, skips):
    """Return the state of each frame on the best path, (t,); see `samba_asr.decoding.align`."""
    t, s = log_probs.shape[0], len(labels)
    best, before = np.full(s, -INF), np.empty(s)
    moves = np.zeros((t, s), np.uint8)
    for i in range(min(2, s)):
        best[i] = log_probs[0, labels[i]]
    for f in range(1, t):
        best, before = before, best
        for i in range(s):
            stay = before[i]
            one = before[i - 1] if i >= 1 else -INF
            two = before[i - 2] if skips[i] else -INF
            if two > max(stay, one):
                moves[f, i] = 2
                best[i] = two + log_probs[f, labels[i]]
            elif one > stay:
                moves[f, i] = 1
                best[i] = one + log_probs[f, labels[i]]
            else:
                best[i] = stay + log_probs[f, labels[i]]
    path = np.empty(t, np.int64)
    at = s - 1 if s == 1 or best[s - 1] >= best[s - 2] else s - 2
    for f in range(t - 1, -1, -1):
        path[f] = at
        at -= np.int64(moves[f, at])
    return path
