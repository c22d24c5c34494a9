"""Extensions of the beams by the best tokens, within words and at their ends."""

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
    LAST,
    NAME,
    NODE,
    PB,
    PRIVATE,
    UNKNOWN_SCORE,
    VB,
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
from samba_asr.decoding.compiled.lookup import (
    CACHE,
    begin_word,
    child_of,
    find_name,
    gram_score,
    hot_move,
    mix,
    name_of,
)

INF = math.inf
U64 = np.uint64


@jit
def word_ends(node, private, context, guides, rules, cached, endings):
    """Score the words that end in a node of a tree, into `endings` (gain, n-gram context, word); returns how many."""
    tree, more, grams = guides[0], guides[1], guides[2]
    known, unknown, weight, word_bonus = rules[0], rules[1], rules[3], rules[4]
    ends_first, ends_word, ends_first_m, ends_word_m = tree[4], tree[5], more[4], more[5]
    successors, gram_word, log_prob, backoff, link, level = grams
    cache_key, cache_score, cache_after, paid = cached
    end_gain, end_context, end_word = endings
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
    return ends


@jit
def extend(
    beams, alive, floor, tokens, best, listed, stays, table, begins, guides, rules, cached, endings, ways, score, alike
):
    """Extend each beam by each token that reaches `floor`; returns the number of extensions.

    ways: filled with them; score and alike: after those of the beams.  If there is not room for all, a larger number comes back.
    """
    values, marks, names = beams
    v_best = stays[4]
    tree, more, hot = guides[0], guides[1], guides[3]
    first, child_token, child_node, root, ahead, start = tree[0], tree[1], tree[2], tree[3], tree[6], tree[7]
    first_m, child_token_m, child_node_m, root_m = more[0], more[1], more[2], more[3]
    ahead_m, start_m = more[6], more[7]
    hot_first, hot_token, hot_child, hot_fail, hot_score, hot_credit, hot_before, hot_complete = hot
    known, worded = rules[0], rules[2]
    end_gain, end_context, end_word = endings
    XF, XI, XU = ways
    room, hotted = XF.shape[1], len(hot_fail) > 1
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
                        ends = word_ends(node, private, context, guides, rules, cached, endings)
                    count = ends * ((1 if to >= 0 else 0) + (1 if to_m >= 0 else 0))
            if n + count > room:
                return n + count
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
    return n
