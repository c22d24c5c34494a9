"""The objective of speech recognition: CTC, and terms with a weight in `loss.*` (samba_asr.training.objectives.terms).

Shapes: n views of b utterances, view by view; s samples, t frames, d d_model, v vocabulary, u tokens.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import cast

import torch
from torch import Tensor, nn

from samba_asr.audio.gaps import cut_gaps
from samba_asr.config import Config
from samba_asr.device import upload
from samba_asr.models.asr import AsrModel
from samba_asr.training.objectives import transforms
from samba_asr.training.objectives.base import BatchFields, Objective, Outcome, draw_block, mean_of_views, objectives
from samba_asr.training.objectives.crf import CrfTerm
from samba_asr.training.objectives.mwer import Reader
from samba_asr.training.objectives.terms import Encoded, Given, Term, ctc_loss, terms


@objectives.register("speech")
class SpeechObjective(Objective):
    """CTC of the net's head and of its self-conditioning layers, and the terms with a weight above 0.

    With `loss.cr_ctc` an augmented batch is encoded twice, with two draws of the transforms.
    """

    net: AsrModel

    def __init__(
        self,
        net: AsrModel,
        config: Config,
        *,
        trigram: Tensor | None = None,
        read: Reader | None = None,
        feature_transforms: Sequence[transforms.Transform] | None = None,
    ):
        """trigram: of the units of the training texts, needed for `loss.crf`.  read: the search, needed for `loss.mwer`.

        feature_transforms: of the log-mel features in training; default: those of `config.augment`.
        """
        super().__init__(net)
        self.config, self.weights = config.model, config.loss
        # In the order of `loss.*`: it must not depend on the order of imports.
        wanted = [f.name for f in fields(config.loss) if f.name in terms and getattr(config.loss, f.name) > 0]
        found = {name: terms[name].build(net, config, Given(trigram, read)) for name in wanted}
        kept = nn.ModuleDict({name: term for name, term in found.items() if term is not None})
        self.terms = cast("Mapping[str, Term]", kept)
        if feature_transforms is None:
            feature_transforms = transforms.speech_transforms(config.augment)
        self.transforms = list(feature_transforms)
        self.gap_prob = config.augment.gap_prob

    @property
    def parts(self) -> tuple[str, ...]:
        return ("ctc", *(term.part for term in self.terms.values()))

    @property
    def crf(self) -> CrfTerm | None:
        """The CTC-CRF term, if it has a weight."""
        return cast("CrfTerm", self.terms["crf"]) if "crf" in self.terms else None

    def draw_block(self, rng: random.Random) -> int:
        return draw_block(self.config.blocks, self.config.full_block, rng)

    def compute(self, batch: BatchFields, *, block: int, augment: bool, generator: torch.Generator | None) -> Outcome:
        net, front, b = self.net, self.net.features, len(batch.lengths)
        audio, lengths, gap = batch.audio, batch.lengths, None
        # The same on the CPU, for all that the CPU decides: asking the device would wait for it.
        known = lengths if batch.known_lengths is None else batch.known_lengths
        known_tokens = batch.token_lengths if batch.known_token_lengths is None else batch.known_token_lengths
        if augment and self.gap_prob:
            where = {
                "probability": self.gap_prob,
                "stride": net.acoustic.stride,
                "rate": self.config.features.sample_rate,
            }
            audio, known, gap = cut_gaps(audio, known, generator, **where)
            lengths = upload(known, audio.device)
        with torch.no_grad():
            features, lengths = front(audio.unsqueeze(-1), lengths)  # (b, t, m)
        known = known // front.stride
        tokens, token_lengths = batch.tokens, batch.token_lengths
        if augment and "cr_ctc" in self.terms:  # without augmentation both views would be equal
            features, lengths = torch.cat([features, features]), torch.cat([lengths, lengths])
            tokens, token_lengths = torch.cat([tokens, tokens]), torch.cat([token_lengths, token_lengths])
            known, known_tokens = torch.cat([known, known]), torch.cat([known_tokens, known_tokens])
            gap = None if gap is None else torch.cat([gap, gap])
        if augment:
            features = transforms.apply(self.transforms, features, known, generator, front)
        x, lengths = net.acoustic.subsampling(features, lengths)
        known = known // net.acoustic.subsampling.stride
        frames, lengths, middle = net.acoustic.encoder.read(x, lengths, block, gap, known)  # (n b, t, d)
        log_probs, _ = net.ctc(frames, lengths)
        ctc, *lower = (ctc_loss(v, tokens, known, known_tokens) for v in (log_probs, *middle))
        together = ctc.lerp(torch.stack(lower).mean(0), self.weights.intermediate) if lower else ctc
        given = Encoded(frames, lengths, log_probs, ctc, tokens, token_lengths, batch)
        loss, parts = self.weights.ctc * mean_of_views(together, b), {"ctc": mean_of_views(ctc, b)}
        for name, term in self.terms.items():
            value = mean_of_views(term(net, given), b)
            loss = loss + getattr(self.weights, name) * value
            parts[term.part] = value
        return Outcome(loss, parts, batch.token_lengths)
