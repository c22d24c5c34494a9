"""Mixtures of n-gram models, as one n-gram model (`samba-asr lm mix`).

    p(w | h) = sum over models i of weight_i p_i(w | h)

for each n-gram h w that one of the models has; back-off weights then give what remains to all other words, so the mixture is a
model as the others are: the static interpolation of A. Stolcke, "SRILM - an extensible language modeling toolkit", 2002.  A
word that a model does not know has no probability there.  The weights are those with which a text is likeliest, by expectation
maximization: F. Jelinek and R. Mercer, "Interpolated estimation of Markov source parameters from sparse data", 1980.

    k  models     n  n-grams     t  words of a text, ends included
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from samba_asr.decoding.ngram import BEGIN, END, FLOOR, NgramModel
from samba_asr.decoding.packed import Grams
from samba_asr.errors import UserError

LEAST = 1e-7  # probability: what rounding leaves of nothing
IMPOSSIBLE = 1e-70  # probability: as good as none; a file's own "impossible" is 1e-99
ROUNDS = 100
CLOSE = 1e-5  # largest change of a weight in the last round


def of_text(models: Sequence[NgramModel], lines: Iterable[str]) -> np.ndarray:
    """Return p_i of each word of a text that a model knows, and of each line's end, (t, k) float64.

    UserError for a text that has no word of the models.
    """
    order = max(model.order for model in models)
    windows: list[tuple[str, ...]] = []
    for line in lines:
        said = ("",) * (order - 1) + (BEGIN, *line.split(), END)
        windows += [said[i - order + 1 : i + 1] for i in range(order, len(said))]
    known = [w for w in windows if any(w[-1] in model.ids for model in models)]
    if not any(w[-1] != END for w in known):
        raise UserError("the text has no word that the language models know")
    p = [model.log_prob(np.array([[model.ids.get(word, -1) for word in w] for w in known])) for model in models]
    return np.exp(np.maximum(np.stack(p, 1), FLOOR))  # no row of zeros, which would have no shares


def best_weights(p: np.ndarray) -> np.ndarray:
    """Return the weights (k,) with which a text is likeliest.  p: of each word by each model (t, k)."""
    weights = np.full(p.shape[1], 1 / p.shape[1])
    for _ in range(ROUNDS):
        shares = weights * p
        new = (shares / shares.sum(1, keepdims=True)).mean(0)
        near = np.abs(new - weights).max() < CLOSE
        weights = new
        if near:
            break
    return weights


def perplexity(p: np.ndarray) -> float:
    """Return the perplexity a word.  p: the probability of each (t,); infinite if one is impossible."""
    return math.exp(-np.log(p).mean()) if (p > IMPOSSIBLE).all() else math.inf


def mixed(models: Sequence[NgramModel], weights: Sequence[float]) -> tuple[list[str], list[Grams]]:
    """Mix the models; return the words, by id, and the n-grams, by order, for `NgramModel` or `packed.write`."""
    words = list(dict.fromkeys(word for model in models for word in model.ids))
    ids = {word: i for i, word in enumerate(words)}
    ours = [np.array([ids[word] for word in model.ids]) for model in models]  # by a model's id
    theirs = [np.array([model.ids.get(word, -1) for word in words]) for model in models]  # by our id
    grams: list[Grams] = []
    for m in range(1, max(model.order for model in models) + 1):
        there = [to[model.grams[m - 1].words] for model, to in zip(models, ours, strict=True) if m <= model.order]
        of_order = np.unique(np.concatenate(there), axis=0)
        logs = [
            model.log_prob(to[of_order]) + math.log(max(weight, IMPOSSIBLE))
            for model, to, weight in zip(models, theirs, weights, strict=True)
        ]
        log_prob = np.minimum(np.logaddexp.reduce(logs), 0.0)
        if grams:
            grams[-1] = grams[-1]._replace(backoff=_backoff(words, grams, of_order, log_prob))
        grams.append(Grams(of_order.astype(np.int32), log_prob.astype(np.float32), np.zeros(len(of_order), np.float32)))
    return words, grams


def _backoff(words: list[str], grams: list[Grams], longer: np.ndarray, log_prob: np.ndarray) -> np.ndarray:
    """Return the back-off weights (n,) of the last of `grams`, so that the words after each of them have 1 in all.

    longer: the n-grams of the next order, sorted, with their `log_prob`; what they begin with is among the last of `grams`.
    """
    contexts = grams[-1].words  # sorted
    shorter = NgramModel(words, grams).log_prob(longer[:, 1:])
    new = np.ones(len(longer), dtype=bool)
    new[1:] = (longer[1:, :-1] != longer[:-1, :-1]).any(1)
    starts = np.flatnonzero(new)
    backoff = np.zeros(len(contexts))
    if len(starts):
        left = 1 - np.add.reduceat(np.exp(log_prob), starts)
        shared = 1 - np.add.reduceat(np.exp(shorter), starts)
        place = _places(contexts, longer[starts, :-1])
        backoff[place] = np.log(np.maximum(left, LEAST)) - np.log(np.maximum(shared, LEAST))
    return backoff.astype(np.float32)


def _places(rows: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Return where each of `some` stands among `rows`; both sorted, and each of `some` is there."""
    both = np.concatenate([rows, some])
    _, group = np.unique(both, axis=0, return_inverse=True)
    where = np.empty(len(rows), dtype=np.int64)
    where[group.ravel()[: len(rows)]] = np.arange(len(rows))
    return where[group.ravel()[len(rows) :]]
