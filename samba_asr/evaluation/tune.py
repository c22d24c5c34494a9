"""Tuning of a language model's weights by word error rate on a validation set, never the test set.

The acoustic model runs once, because weights change only the search.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from samba_asr import config as configs
from samba_asr.config import Config, DecodeConfig
from samba_asr.data.manifest import Utterance
from samba_asr.decoding.base import Hypothesis, text_of
from samba_asr.decoding.build import READ, build_search, neural_lm, word_guide
from samba_asr.decoding.lattice_lm import LatticeLm
from samba_asr.decoding.lattice_lm import Path as LatticePath
from samba_asr.decoding.neural import TextScorer
from samba_asr.decoding.searches import refusal, searches
from samba_asr.decoding.words import WordGuide
from samba_asr.errors import UserError
from samba_asr.evaluation.testset import frames
from samba_asr.metrics.wer import WerReport, score
from samba_asr.models.folder import LoadedModel, copy_search_files
from samba_asr.runtime.choose import build
from samba_asr.runtime.latency import final_blocks

WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
BONUSES = (-1.0, 0.0, 1.0, 2.0, 3.0)
NEURAL_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)

Nbest = dict[str, list[Hypothesis]]
"""Hypotheses by the ids of the utterances, best first."""


@dataclass(frozen=True)
class Trial:
    """Tried settings, as overrides, and their result."""

    settings: str
    report: WerReport

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return 100 * self.report.wer


@dataclass(frozen=True)
class Tuned:
    """The best settings, and all trials."""

    decode: DecodeConfig  # search settings with the best weights
    settings: str  # these weights, as overrides
    wer: float  # in percent
    at_edge: bool  # whether the best weight or bonus is the lowest or highest of the grid
    trials: tuple[Trial, ...]  # in their order


def tune(
    loaded: LoadedModel,
    utterances: Sequence[Utterance],
    decode: DecodeConfig,
    *,
    weights: Sequence[float] = WEIGHTS,
    bonuses: Sequence[float] = BONUSES,
    batch_seconds: float | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Tuned:
    """Find the weight and the word bonus of the n-gram, from the middle of the grid toward better neighbors.

    If a Mamba language model reads lattices, or the n-best list, its weight is tuned after that.
    decode: search settings with a language model.  batch_seconds: default the model's own data.batch_seconds.
    on_trial: called after each trial.
    UserError without a language model or texts, and for a Mamba language model that guides the beam.
    """
    if not decode.lm.path:
        raise UserError("there is nothing to tune without a language model: --set decode.lm=FILE")
    if not any(u.text for u in utterances):
        raise UserError("the utterances have no texts to compare with")
    if "lm" not in searches[decode.search.method].takes:
        raise UserError(refusal("a language model needs", "lm", decode.search.method))
    guide = word_guide(loaded, decode)
    guides, reader = neural_lm(loaded, decode, alone=False)
    if guides or guide is None:
        raise UserError(
            f"decode.lm.neural={decode.lm.neural} guides the beam itself, which is not tuned here: omit it, or use one with "
            "other units, which reads lattices"
        )
    search = FixedFrames(loaded, utterances, decode, guide, batch_seconds or loaded.config.data.batch_seconds)
    references, trials = {u.id: u.text for u in utterances}, []

    def rate(settings: str, found: Nbest) -> float:
        report = score(references, {i: text_of(some[0], loaded.tokenizer) for i, some in found.items()})
        trials.append(Trial(settings, report))
        on_trial(trials[-1])
        return trials[-1].wer

    def words(weight: float, bonus: float) -> str:
        return f"decode.lm.weight={weight:g} decode.lm.word_bonus={bonus:g}"

    weights, bonuses = sorted(weights), sorted(bonuses)
    (weight, bonus), wer = climb(weights, bonuses, lambda w, b: rate(words(w, b), search(w, b)))
    best, settings = replace(decode, lm=replace(decode.lm, weight=weight, word_bonus=bonus)), words(weight, bonus)
    if reader is not None:
        if isinstance(reader, LatticeLm):
            mixed = search.paths(reader.weighted(weight, bonus, weight / 2))
        else:
            mixed = Mixture(search(weight, bonus, min(READ, decode.search.beam)), reader)
        tried = {0.0: wer}
        for share in NEURAL_WEIGHTS:
            if isinstance(mixed, Paths) and weight and share > weight:
                continue
            tried[share] = rate(f"decode.lm.neural_weight={share:g}", mixed(share))
        share = min(tried, key=tried.__getitem__)
        best, wer, settings = (
            replace(best, lm=replace(best.lm, neural_weight=share)),
            tried[share],
            f"{settings} decode.lm.neural_weight={share:g}",
        )
    at_edge = weight in (weights[0], weights[-1]) or bonus in (bonuses[0], bonuses[-1])
    return Tuned(best, settings, wer, at_edge, tuple(trials))


class FixedFrames:
    """Search with any weights over the same log-probabilities."""

    def __init__(
        self,
        loaded: LoadedModel,
        utterances: Sequence[Utterance],
        decode: DecodeConfig,
        guide: WordGuide,
        batch_seconds: float,
    ):
        self.decode, self.guide = decode, guide
        runtime = build(loaded, decode.runtime)
        batches = frames(
            runtime, loaded.tokenizer, utterances, final_blocks(decode, runtime), batch_seconds=batch_seconds
        )
        self.batches = [(batch.ids, found.log_probs, found.lengths) for batch, found in batches]

    @torch.inference_mode()
    def __call__(self, weight: float, bonus: float, nbest: int = 1) -> Nbest:
        search, found = self._search(weight, bonus), {}
        for ids, log_probs, lengths in self.batches:
            state = search.finish(search.step(log_probs, lengths, search.init_state(len(ids))))
            found |= zip(ids, search.hypotheses(state, nbest), strict=True)
        return found

    def _search(self, weight: float, bonus: float) -> Any:
        return build_search(self.decode.search, self.guide.weighted(weight=weight, bonus=bonus))

    @torch.inference_mode()
    def paths(self, reader: LatticeLm) -> Paths:
        """Let a language model read the lattices of the search with its weights."""
        search = self._search(reader.weight, reader.bonus)  # beam search, which keeps lattices
        found: dict[str, tuple[list[Hypothesis], list[LatticePath]]] = {}
        for ids, log_probs, lengths in self.batches:
            state = search.finish(search.step(log_probs, lengths, search.init_state(len(ids))))
            rows = zip(ids, search.hypotheses(state), search.lattices(state), log_probs, lengths.tolist(), strict=True)
            for i, best, lattice, frames_of_row, n in rows:
                found[i] = best, reader.paths(lattice, np.asarray(frames_of_row)[:n]) if lattice and n else []
        return Paths(reader, found)


class Paths:
    """Lattices that a language model read once; its weight changes only the sum of scores."""

    def __init__(self, reader: LatticeLm, read: dict[str, tuple[list[Hypothesis], list[LatticePath]]]):
        self.reader, self.read = reader, read

    def __call__(self, weight: float) -> Nbest:
        """Return the texts, best first, with this weight of the language model; of a lattice without paths the search's."""

        def scored(paths: list[LatticePath]) -> list[Hypothesis]:
            return sorted((path.scored(self.reader.weight, weight) for path in paths), key=lambda h: -h.score)

        return {i: scored(paths) or best for i, (best, paths) in self.read.items()}


class Mixture:
    """N-best lists that a language model scores once; its weight changes only the sum of scores."""

    def __init__(self, nbest: Nbest, reader: TextScorer):
        reader.weight = 1.0
        self.read = {i: reader([some])[0] for i, some in nbest.items()}
        self.first = {(i, h.tokens, h.words): h.score for i, some in nbest.items() for h in some}

    def __call__(self, share: float) -> Nbest:
        """Return the n-best lists, sorted again with this share of the language model in the score."""

        def joint(i: str, h: Hypothesis) -> float:
            return self.first[i, h.tokens, h.words] * (1 - share) + h.score * share

        return {i: sorted(some, key=lambda h, i=i: -joint(i, h)) for i, some in self.read.items()}


def climb(
    weights: Sequence[float], bonuses: Sequence[float], rate: Callable[[float, float], float]
) -> tuple[tuple[float, float], float]:
    """Find the pair with the lowest rate, by steps from the middle of the grid to a pair without better neighbors."""
    tried: dict[tuple[int, int], float] = {}
    best, place = math.inf, (len(weights) // 2, len(bonuses) // 2)
    while True:
        i, j = place
        for a, b in ((i, j), (i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if (a, b) not in tried and 0 <= a < len(weights) and 0 <= b < len(bonuses):
                tried[a, b] = rate(weights[a], bonuses[b])
        place = min(tried, key=tried.__getitem__)
        if not tried[place] < best:
            return (weights[place[0]], bonuses[place[1]]), best
        best = tried[place]


def save(folder: Path, config: Config, decode: DecodeConfig) -> None:
    """Save `decode` in the model's configuration, and copy its files into the model's folder."""
    decode = copy_search_files(decode, folder, folder)
    configs.save(dataclasses.replace(config, decode=decode), folder / "config.yaml")
