"""Results read from a word lattice: posteriors of its words, alternatives to a word, its best path, the path nearest to a text.

The posterior of an arc is the share of all paths that go over it, by their scores.  Scores of a CTC head are far too sure of
themselves, so they are scaled: 0.5 made the best confidences (egs/mini_librispeech/RESULTS.md).  The posterior of a word is that
of all arcs with its text, in the frame of it where their sum is largest (F. Wessel, R. Schlüter, K. Macherey, H. Ney, "Confidence
measures for large vocabulary continuous speech recognition", 2001, C_max).

    a  arcs     n  nodes     k  scales
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from samba_asr.decoding.lattice import Lattice

SCALES = (1.0, 0.5, 0.25)
LEAST = 0.01
"""Posterior below which a word is no alternative."""


class Support(NamedTuple):
    """What a lattice says of a word: fields of `samba_asr.decoding.confidence.Evidence`."""

    posterior_sharp: float
    posterior: float
    posterior_flat: float
    rivals: float
    entropy: float


class Alternative(NamedTuple):
    """A word that may have been said in place of another."""

    text: str
    confidence: float  # 0 to 1, on the scale of the words' own

    def entry(self) -> dict[str, str | float]:
        """Return its JSON object, the same in files and messages."""
        return {"text": self.text, "confidence": self.confidence}


def posteriors(lattice: Lattice, scales: Sequence[float] = SCALES) -> np.ndarray:
    """Return, by the forward-backward algorithm, (k, a): for each scale of the scores the share of paths over each arc."""
    n, scale = len(lattice.times), np.array(scales, dtype=np.float64)
    score = np.outer(lattice.acoustic + lattice.lm, scale)  # (a, k)
    forward, backward = np.full((n, len(scale)), -np.inf), np.full((n, len(scale)), -np.inf)
    forward[:1], backward[-1:] = 0.0, 0.0
    start, end = lattice.start.tolist(), lattice.end.tolist()
    for arc in range(len(start)):  # arcs are in the order of their first nodes, so those before a node come first
        high = end[arc]
        forward[high] = np.logaddexp(forward[high], forward[start[arc]] + score[arc])
    for arc in reversed(range(len(start))):
        low = start[arc]
        backward[low] = np.logaddexp(backward[low], backward[end[arc]] + score[arc])
    if not n:
        return np.zeros((len(scale), 0))
    return np.exp(forward[lattice.start] + score + backward[lattice.end] - forward[-1]).T


def alive(lattice: Lattice, frame: float) -> np.ndarray:
    """(a,) bool: whether the word of each arc is being said in a frame."""
    return (lattice.first <= frame) & (frame < lattice.last)


def most(lattice: Lattice, values: np.ndarray, text: str, first: int, end: int) -> float:
    """Return the largest sum of `values` (a,) over the arcs with this text that a frame first .. end - 1 has; at most 1."""
    if text not in lattice.words:
        return 0.0
    same = np.flatnonzero(lattice.word == lattice.words.index(text))
    frames = np.arange(first, max(end, first + 1))[:, None]
    there = (lattice.first[same] <= frames) & (frames < lattice.last[same])  # (frames, same)
    return min(1.0, float((there * values[same]).sum(axis=1).max(initial=0.0)))


def support(lattice: Lattice, shares: np.ndarray, text: str, first: int, end: int) -> Support:
    """Return the evidence for a word in the frames first .. end - 1.  shares: `posteriors` (k, a)."""
    sharp, normal, flat = (most(lattice, some, text, first, end) for some in shares)
    there = shares[1][alive(lattice, (first + end) / 2)]
    entropy = float(-(there * np.log(there + 1e-12)).sum())
    return Support(sharp, normal, flat, math.log(1 + len(there)), max(entropy, 0.0))


def alternatives(
    lattice: Lattice,
    shares: np.ndarray,
    text: str,
    first: int,
    end: int,
    confidence: float,
    count: int,
    judged: np.ndarray | None = None,
) -> tuple[Alternative, ...]:
    """Return the likeliest other words for a word in the frames first .. end - 1, at most `count`, the best first.

    shares (a,): posteriors.  confidence: of the word.  What is missing to 1 is shared out among the others by their posteriors,
    or by the probabilities of their arcs (a,), if a graph network has judged them.
    """
    middle = (first + max(end, first + 1)) // 2
    texts = {lattice.words[i] for i in lattice.word[alive(lattice, middle)].tolist()} - {text, ""}
    values = {other: most(lattice, shares, other, first, end) for other in sorted(texts)}
    if judged is not None:
        there = alive(lattice, middle)
        same = {other: there & (lattice.word == lattice.words.index(other)) for other in values}
        likely = {other: float(judged[same[other]].max(initial=0.0)) for other in values}
        best = sorted((other for other in likely if likely[other] >= LEAST), key=lambda other: -likely[other])[:count]
        scale = min(1.0, (1.0 - confidence) / max(sum(likely.values()), 1e-9))
        return tuple(Alternative(other, round(likely[other] * scale, 4)) for other in best)
    left = max(1.0 - most(lattice, shares, text, first, end), sum(values.values()), 1e-9)
    best = sorted((other for other in values if values[other] >= LEAST), key=lambda other: -values[other])[:count]
    return tuple(Alternative(other, round((1.0 - confidence) * values[other] / left, 4)) for other in best)


def best_path(lattice: Lattice, value: Callable[[int], float] | None = None) -> list[int]:
    """Return the arcs of the path with the largest sum of values.  value: of an arc, default its whole score."""
    total = (lattice.acoustic + lattice.lm).tolist()
    worth = total.__getitem__ if value is None else value
    best: list[tuple[float, int]] = [(-np.inf, -1)] * len(lattice.times)
    best[:1] = [(0.0, -1)]
    start, end = lattice.start.tolist(), lattice.end.tolist()
    for arc in range(len(start)):
        score = best[start[arc]][0] + worth(arc)
        if score > best[end[arc]][0]:
            best[end[arc]] = score, arc
    found, node = [], len(lattice.times) - 1
    while node >= 0 and (arc := best[node][1]) >= 0:
        found.append(arc)
        node = start[arc]
    return found[::-1]


def oracle(lattice: Lattice, words: Sequence[str]) -> int:
    """Return the fewest errors that a path of the lattice has against `words`: substitutions, deletions, insertions."""
    size = len(words) + 1
    never = 1 << 30
    cost = np.full((len(lattice.times), size), never, dtype=np.int64)  # by node and number of words matched
    said = np.array(words, dtype=object)
    wrong = [np.array(said != word, dtype=np.int64).reshape(-1) for word in lattice.words]
    order = np.arange(size)
    cost[:1] = order
    start, end, word = lattice.start.tolist(), lattice.end.tolist(), lattice.word.tolist()
    settled = -1
    for arc in range(len(start)):
        low, high = start[arc], end[arc]
        if low != settled:  # words of the text that no arc says
            cost[low] = order + np.minimum.accumulate(cost[low] - order)
            settled = low
        if not lattice.words[word[arc]]:
            np.minimum(cost[high], cost[low], out=cost[high])
            continue
        np.minimum(cost[high], cost[low] + 1, out=cost[high])
        np.minimum(cost[high, 1:], cost[low, :-1] + wrong[word[arc]], out=cost[high, 1:])
    if len(start) == 0:
        return len(words)
    return int((cost[-1] + (size - 1 - order)).min())
