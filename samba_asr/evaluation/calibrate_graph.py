"""Calibration by a graph network: lattices of a validation set with their truth, training, cross-validation.

A word of a lattice is right if a word of the text with the same letters begins nearby, in the forced alignment of the text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from samba_asr.data.manifest import Utterance
from samba_asr.decoding.confidence import normalized_cross_entropy
from samba_asr.decoding.graph import arc_graph
from samba_asr.decoding.posteriors import posteriors
from samba_asr.decoding.transcript import Said, Segment, Word
from samba_asr.errors import UserError
from samba_asr.evaluation.calibrate import FOLDS
from samba_asr.evaluation.testset import samples
from samba_asr.metrics.wer import score
from samba_asr.models.graph import GraphMamba, save_graph
from samba_asr.recognizer import Recognizer
from samba_asr.result import Result
from samba_asr.training.graph import Example, train

NEARBY = 0.48
"""Seconds between the beginnings of a word of the lattice and of the text that are one word."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """Words and arcs with their probabilities by networks that did not see them."""

    confidence: tuple[float, ...]  # of the words of the best texts that have an arc
    right: tuple[bool, ...]
    arcs: tuple[float, ...]  # of all arcs whose truth is known
    arcs_right: tuple[bool, ...]

    @property
    def entropy(self) -> float:
        """NCE of the words of the best texts."""
        return normalized_cross_entropy(self.confidence, self.right)

    @property
    def arcs_entropy(self) -> float:
        """NCE of all words of the lattices."""
        return normalized_cross_entropy(self.arcs, self.arcs_right)


def calibrate_graph(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    results: Mapping[str, Result],
    latency_ms: float | None = None,
) -> Judged:
    """Train the network of a recognizer's model folder; return what the other parts' networks say of each part, of FOLDS.

    results: of the utterances, by id.
    UserError if the search keeps no lattices.
    """
    if recognizer.folder is None:
        raise UserError("a model in memory has no folder for the network: save it first")
    found = examples(recognizer, utterances, results, latency_ms)
    if not found:
        raise UserError(
            "no utterance has a word lattice: the graph network needs beam search with a language model of words and "
            "decode.search.lattice above 0"
        )
    parts = []
    for fold in range(FOLDS):
        known = [example for n, example in enumerate(found) if n % FOLDS != fold] or found
        parts.append(judged(train(known), [example for n, example in enumerate(found) if n % FOLDS == fold]))
    save_graph(recognizer.folder, train(found))
    logger.info("%s: graph network trained on %d lattices", recognizer.folder, len(found))
    return Judged(*(tuple(x for part in parts for x in getattr(part, name)) for name in Judged.__dataclass_fields__))


@torch.inference_mode()
def judged(network: GraphMamba, found: Sequence[Example]) -> Judged:
    """Ask a network about lattices with their truth."""
    confidence, right, arcs, arcs_right = [], [], [], []
    for example in found:
        p = torch.sigmoid(network(example.graph))
        known = example.right >= 0
        confidence += p[example.arcs].tolist()
        right += (example.said > 0).tolist()
        arcs += p[known].tolist()
        arcs_right += (example.right[known] > 0).tolist()
    return Judged(tuple(confidence), tuple(right), tuple(arcs), tuple(arcs_right))


def examples(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    results: Mapping[str, Result],
    latency_ms: float | None = None,
) -> list[Example]:
    """Return the lattices of results, by the ids of their utterances, with the truth about each word.

    The truth about words that are not in the best text is unknown where the text cannot be aligned to the audio.
    """
    found = []
    for utterance, audio in samples((u for u in utterances if u.id in results), recognizer.rate):
        result = results[utterance.id]
        try:
            truth = recognizer.align(audio, utterance.text, latency_ms=latency_ms).words
        except UserError as error:
            logger.info("%s: no truth about the words of its lattice: %s", utterance.id, error)
            truth = None
        report = score({utterance.id: utterance.text}, {utterance.id: result.text})
        pairs = report.utterances[0].pairs
        right = iter([ref == hyp for ref, hyp in pairs if hyp is not None])
        for segment in result.segments:
            said = [next(right) for _ in segment.words]
            if segment.lattice is not None:
                found.append(example(segment, said, truth, recognizer.frame))
    return found


def example(segment: Segment, right: Sequence[bool], truth: Sequence[Word] | None, frame: float) -> Example:
    """Make the example of a segment.  right: of its words.  truth: the words that were said, None if unknown."""
    lattice = segment.lattice
    assert lattice is not None
    frames = lattice._replace(times=np.round(lattice.times / frame).astype(np.int64))
    words = [Said(w.text, round(w.start / frame), round(w.end / frame), w.evidence) for w in segment.words]
    graph, arcs = arc_graph(frames, posteriors(frames), words)
    labels = np.full(len(frames.start), -1.0)
    if truth is not None:
        begins: dict[str, list[float]] = {}
        for word in truth:
            begins.setdefault(word.text, []).append(word.start)
        first = lattice.first.tolist()
        labels = [
            float(any(abs(at - begin) <= NEARBY for begin in begins.get(text, ())))
            for text, at in zip(lattice.texts, first, strict=True)
        ]
    there = [n for n, arc in enumerate(arcs) if arc >= 0]
    return Example(
        graph,
        torch.tensor(labels, dtype=torch.float32),
        torch.tensor([arcs[n] for n in there], dtype=torch.int64),
        torch.tensor([float(right[n]) for n in there]),
    )
