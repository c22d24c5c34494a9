"""Frames for searches, and definitions to compare searches and language models with."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import torch

from tests.decoding.toys import ARPA

GRAMS = {
    tuple(line.split("\t")[1].split()): [float(x) for x in [*line.split("\t"), "0"][0:3:2]]
    for line in ARPA.splitlines()
    if "\t" in line
}


def frames(seed: int, b: int = 3, t: int = 9, v: int = 5, sharpness: float = 2.0) -> torch.Tensor:
    x = torch.randn(b, t, v, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (sharpness * x).log_softmax(-1)


def offline(search, log_probs, lengths):
    state = search.step(log_probs, torch.as_tensor(lengths), search.init_state(len(log_probs)))
    return search.hypotheses(search.finish(state), nbest=4)


def brute_force(x: np.ndarray):
    """{tokens: (log of the summed probability, log of the best alignment's, first frames in that)} of x (t, v)."""
    total, best = defaultdict(lambda: -np.inf), {}
    t, v = x.shape
    for path in itertools.product(range(v), repeat=t):
        score = x[range(t), path].sum()
        starts = [n for n, (i, before) in enumerate(zip(path, (0, *path), strict=False)) if i not in (0, before)]
        tokens = tuple(path[n] for n in starts)
        total[tokens] = np.logaddexp(total[tokens], score)
        if tokens not in best or score > best[tokens][0]:
            best[tokens] = (score, tuple(starts))
    return {tokens: (total[tokens], *best[tokens]) for tokens in total}


def katz(context: tuple[str, ...], word: str) -> float:
    """log10 p(word | context): the definition."""
    if (*context, word) in GRAMS:
        return GRAMS[*context, word][0]
    return GRAMS.get(context, [0, 0])[1] + katz(context[1:], word)
