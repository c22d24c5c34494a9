"""Confidences by the graph network (`samba_asr.models.graph`), which judges every word of a lattice.

features of an arc: logits of its three posteriors; ln frames; acoustic score of a frame; LM score; whole score; letters;
    ln of the words that are said in its middle
of an arc that stands for a word of the best text also: 1; logits of log_prob, agreed, posterior and least; units
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from samba_asr.decoding.confidence import Evidence
from samba_asr.decoding.lattice import Lattice
from samba_asr.decoding.transcript import Said
from samba_asr.models.graph import ArcGraph, GraphMamba

FEATURES = 15
NEAR = 0.01  # cost of a frame of distance, in units of posterior, when the arc of a word is chosen


class GraphJudge:
    """A network as `samba_asr.decoding.transcript.Graph`.  sure: confidence of a word that has no arc."""

    def __init__(self, network: GraphMamba, sure: Callable[[Evidence], float]):
        self.network, self.sure = network.eval(), sure

    @torch.inference_mode()
    def judge(self, lattice: Lattice, shares: np.ndarray, said: Sequence[Said]) -> tuple[list[float], np.ndarray]:
        """See `samba_asr.decoding.transcript.Graph`."""
        graph, arcs = arc_graph(lattice, shares, said)
        probability = torch.sigmoid(self.network(graph)).double().numpy()
        confidences = [
            float(probability[arc]) if arc >= 0 else self.sure(word.evidence)
            for word, arc in zip(said, arcs, strict=True)
        ]
        return confidences, probability


def arc_graph(lattice: Lattice, shares: np.ndarray, said: Sequence[Said]) -> tuple[ArcGraph, list[int]]:
    """Return the graph of a lattice's words, and the arc of each word of the best text (-1: none).

    shares (k, a): `posteriors`.
    """
    first, last, texts = lattice.first.astype(np.float64), lattice.last.astype(np.float64), lattice.texts
    rivals = _rivals(first, last)
    there = np.bincount(rivals[:, 0], minlength=len(texts))
    frames, score = last - first, lattice.acoustic + lattice.lm
    features = np.zeros((len(texts), FEATURES))
    features[:, :3] = _logit(shares.T)
    features[:, 3] = np.log(np.maximum(frames, 1))
    features[:, 4] = lattice.acoustic / np.maximum(frames, 1)
    features[:, 5], features[:, 6] = lattice.lm / 5, score / 5
    features[:, 7] = [len(text) / 5 for text in texts]
    features[:, 8] = np.log(1 + there)
    arcs = [_arc_of(word, texts, first, last, shares[1]) for word in said]
    for word, arc in zip(said, arcs, strict=True):
        if arc >= 0:
            features[arc, 9:] = _of_word(word.evidence)
    graph = ArcGraph(
        features=torch.from_numpy(features.astype(np.float32)),
        start=torch.from_numpy(lattice.start),
        end=torch.from_numpy(lattice.end),
        rivals=torch.from_numpy(rivals),
        share=torch.from_numpy(shares[1].astype(np.float32)),
        nodes=len(lattice.times),
    )
    return graph, arcs


def _of_word(evidence: Evidence) -> list[float]:
    shares = np.array([np.exp(evidence.log_prob), evidence.agreed, evidence.posterior, np.exp(evidence.least)])
    prob, agreed, posterior, least = _logit(shares).tolist()
    return [1.0, prob, agreed, evidence.units / 5, posterior, least / 3]


def _arc_of(word: Said, texts: Sequence[str], first: np.ndarray, last: np.ndarray, share: np.ndarray) -> int:
    """Return the likeliest arc with the text and the time of a word, or -1."""
    same = [n for n, text in enumerate(texts) if text == word.text and first[n] < word.end and last[n] > word.first]
    return max(same, key=lambda n: share[n] - NEAR * abs(first[n] - word.first), default=-1)


def _rivals(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(e, 2): each arc, with every other one that is said in its middle.  first (a,) rises."""
    longest, found = float((last - first).max(initial=0)), []
    for arc, middle in enumerate((first + last) / 2):
        low, high = np.searchsorted(first, [middle - longest, middle], "right")
        others = low + np.flatnonzero(last[low:high] > middle)
        found.append(np.stack([np.full(len(others), arc), others], axis=1)[others != arc])
    return np.concatenate([np.zeros((0, 2), dtype=np.int64), *found])


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 0.002, 0.998)
    return np.log(p / (1 - p))
