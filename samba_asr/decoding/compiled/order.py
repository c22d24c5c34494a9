"""Order of extensions by score in compiled code: the best of them, few of a kind, and those that live on credit.

Equal scores keep their order, as in numpy's stable sorts.
"""

from __future__ import annotations

import math

import numpy as np

from samba_asr.decoding.compiled.jit import jit

INF = math.inf
U64 = np.uint64
BUCKETS = 512


@jit
def merge_sort(values, idx, tmp, lo, hi):
    """Sort idx[lo:hi] by `values`, the largest first; equal ones keep their order."""
    for a in range(lo, hi, 8):
        for i in range(a + 1, min(a + 8, hi)):
            x = idx[i]
            w = values[x]
            j = i - 1
            while j >= a and values[idx[j]] < w:
                idx[j + 1] = idx[j]
                j -= 1
            idx[j + 1] = x
    width = 8
    while width < hi - lo:
        for a in range(lo, hi, 2 * width):
            mid, end = min(a + width, hi), min(a + 2 * width, hi)
            for i in range(a, mid):
                tmp[i] = idx[i]
            i, j, o = a, mid, a
            while i < mid:
                if j < end and values[idx[j]] > values[tmp[i]]:
                    idx[o] = idx[j]
                    j += 1
                else:
                    idx[o] = tmp[i]
                    i += 1
                o += 1
        width *= 2


@jit
def rank(values, n, idx, tmp, buckets):
    """Sort the numbers 0 .. n - 1 by `values`, the largest first, into `idx`, equal ones in order; -inf are left out.

    Returns how many there are.  The values go to buckets of equal width, which are sorted by themselves.
    """
    low, high, count = INF, -INF, 0
    for i in range(n):
        w = values[i]
        if w > -INF:
            count += 1
            low, high = min(low, w), max(high, w)
    if count == 0:
        return 0
    scale = (BUCKETS - 1) / (high - low) if high - low > 1e-300 else 0.0
    for s in range(BUCKETS + 1):
        buckets[s] = 0
    for i in range(n):
        w = values[i]
        if w > -INF:
            buckets[int((high - w) * scale) + 1] += 1
    for s in range(BUCKETS):
        buckets[s + 1] += buckets[s]
    for i in range(n):
        w = values[i]
        if w > -INF:
            s = int((high - w) * scale)
            idx[buckets[s]] = i
            buckets[s] += 1
    begin = 0
    for s in range(BUCKETS):
        end = np.int64(buckets[s])  # where the next bucket begins
        if end - begin > 1:
            merge_sort(values, idx, tmp, begin, end)
        begin = end
    return count


@jit
def limit_alike(score, alike, idx, count, limit, table, times, whole, firsts, least, lost, leader):
    """Keep at most `limit` of each key, in order: idx[:kept] are those kept, the scores of the others become -inf.

    whole: beams after which to stop (-1: none).  table, times, firsts: scratch, an open hash table.
    least: of the others, those with a higher score go to `lost`, and the first with their key to `leader`.
    Returns how many are kept, and how many are lost.
    """
    size = U64(len(table))
    for s in range(len(table)):
        times[s] = 0
    kept, gone = 0, 0
    for o in range(count):
        x = idx[o]
        full = kept == whole
        if full and not score[x] > least:
            break
        key = alike[x]
        s = key % size
        while times[s] > 0 and table[s] != key:
            s = s + U64(1) if s + U64(1) < size else U64(0)
        if times[s] >= limit:
            if score[x] > least:
                lost[gone] = x
                leader[gone] = firsts[s]
                gone += 1
            score[x] = -INF
            continue
        if full:  # of the keys that are not kept nothing need be known
            if times[s] > 0:
                times[s] += 1
            continue
        if times[s] == 0:
            firsts[s] = x
        table[s] = key
        times[s] += 1
        idx[kept] = x
        kept += 1
    return kept, gone


@jit
def best_with_credit(score, credit, n, beam, w, idx, count, tmp, buckets):
    """Choose the best `beam` without credit, then others that have credit, at most w together.

    idx[:count]: those whose score is not -inf, by score; on return those kept, the best score first.  Returns how many.
    """
    sure, chosen, order = np.full(n, -INF), np.zeros(n, np.int8), np.empty(n, np.int32)
    for o in range(count):
        sure[idx[o]] = -(credit[idx[o]] - score[idx[o]])
    rank(sure, n, order, tmp, buckets)
    for o in range(count):
        x = order[o]
        chosen[x] = 1 if o < beam else 2 if credit[x] != 0 else 0
    first, second = 0, 0
    for o in range(count):
        x = idx[o]
        if chosen[x] == 1:
            order[first] = x
            first += 1
        elif chosen[x] == 2 and second < w - beam:
            tmp[second] = x
            second += 1
    i, j = 0, 0
    for o in range(first + second):
        if j == second or (i < first and score[order[i]] >= score[tmp[j]]):
            idx[o] = order[i]
            i += 1
        else:
            idx[o] = tmp[j]
            j += 1
    return first + second
