"""Look-ups in the flat arrays of `samba_asr.decoding.compiled.tables`, and hashes, in compiled code."""

from __future__ import annotations

import math

import numpy as np

from samba_asr.decoding.compiled.jit import jit

INF = math.inf
LOG2 = math.log(2.0)
U64 = np.uint64
CACHE = 1 << 10
"""N-gram scores that one call of a kernel remembers."""


@jit
def logaddexp(x, y):
    """As numpy's, bit for bit."""
    if x == y:
        return x + LOG2
    if x == -INF:
        return y
    if y == -INF:
        return x
    d = x - y
    if d > 0:
        return x + math.log1p(math.exp(-d))
    return y + math.log1p(math.exp(d))


@jit
def mix(key, i):
    """Hash a key with a number that is not negative; as samba_asr.decoding.ngram."""
    m = (key ^ (U64(i) + U64(0x9E3779B97F4A7C15))) * U64(0xBF58476D1CE4E5B9)
    return m ^ (m >> U64(29))


@jit
def name_of(prefix, token, label):
    """Hash a prefix with one more token, read as `label`."""
    m = mix(prefix, token)
    m = (m ^ (U64(label) + U64(0xD6E8FEB86659FD93))) * U64(0xBF58476D1CE4E5B9)
    return m ^ (m >> U64(29))


@jit
def find_name(table, names, name):
    """Return the beam with this name, or -1.  names (3, w): names in its first row.  table: open hash table of beams."""
    mask = U64(len(table) - 1)
    s = name & mask
    while table[s] >= 0:
        if names[0, table[s]] == name:
            return np.int64(table[s])
        s = (s + U64(1)) & mask
    return np.int64(-1)


@jit
def place_of(values, low, high, wanted):
    """Return the place of a value between `low` and `high`, where `values` rise, or -1."""
    a, b = np.int64(low), np.int64(high)
    while a < b:
        m = (a + b) >> 1
        if values[m] < wanted:
            a = m + 1
        elif values[m] > wanted:
            b = m
        else:
            return m
    return np.int64(-1)


@jit
def child_of(first, token, child, node, wanted):
    """Return the child of a node by token, or -1; children are sorted by token."""
    at = place_of(token, first[node], first[node + 1], wanted)
    return np.int64(child[at]) if at >= 0 else np.int64(-1)


@jit
def begin_word(first, tokens, child, root, start, node, token):
    """Return the node of the first token of a word after a prefix that ends in `node` (0: before the first word), or -1."""
    if len(root) == 0:
        return np.int64(-1)
    found = root[token]
    if found < 0 and node == 0 and start >= 0:
        return child_of(first, tokens, child, start, token)
    return np.int64(found)


@jit
def gram_score(successors, words, log_prob, backoff, link, level, paid, context, word):
    """Return ln p(word | context), and the context after the word.  paid: scratch, one place for each order."""
    top, virtual = level[len(level) - 2], level[len(level) - 1]
    at, n = np.int64(context), 0
    if at >= virtual:  # no n-gram begins with it
        at = np.int64(link[at])
    while True:
        found = np.int64(1 + word) if at == 0 else place_of(words, successors[at], successors[at + 1], word)
        if found >= 0:
            total = np.float64(log_prob[found])
            for i in range(n - 1, -1, -1):  # the shortest context first
                total += paid[i]
            return total, (found if found < top else np.int64(link[found]))
        paid[n] = np.float64(backoff[at])
        n += 1
        at = np.int64(link[at])


@jit
def hot_move(first, tokens, child, fail, node, token):
    """Return the node of the automaton where the path goes on, and the next node."""
    end = np.int64(node)
    found = child_of(first, tokens, child, end, token)
    while found < 0 and end != 0:
        end = np.int64(fail[end])
        found = child_of(first, tokens, child, end, token)
    return end, max(found, 0)
