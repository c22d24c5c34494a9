"""Mamba language models in the search: at every unit, as a guide, or over whole texts at the end.

As a guide (shallow fusion; the model must have the recogniser's units) a prefix's view holds the model's state behind it, and
what that makes of every next unit.  Both are found when the prefix is first extended: once for each prefix that lives for
another unit, all of a frame in one batch.

    bonus = weight ln p(units) + word bonus * words       and at the end weight ln p(end | units)

Over the n-best any language model will do, for it reads the texts with units of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from samba_asr.decoding.base import Hypothesis, text_of
from samba_asr.decoding.guide import Ways
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.models.decoder import BOUNDARY
from samba_asr.models.lm import MambaLm
from samba_asr.models.lm_folder import LoadedLm
from samba_asr.streaming import State, stack_rows, take_rows
from samba_asr.text.units import SPACE, Tokenizer, same_pieces


class Read:
    """A guide's view.  Until it is asked about, it knows its parent's state and its last unit."""

    __slots__ = ("after", "bonus", "state", "token")
    label = 0
    credit = 0.0
    future = 0  # the state remembers all

    def __init__(self, state: State, token: int, bonus: float):
        self.state, self.token, self.bonus = state, token, bonus
        self.after: np.ndarray | None = None  # (v,) ln p of each next unit; then `state` is the one behind `token`


class MambaGuide:
    """As `samba_asr.decoding.guide.Guide`; it forbids nothing."""

    def __init__(self, model: MambaLm, tokenizer: Tokenizer, *, weight: float, bonus: float = 0.0):
        """weight: of the model; bonus: of each word, in nats."""
        self.model, self.weight = model, weight
        self._bonus = [bonus * piece.startswith(SPACE) for piece in tokenizer.pieces(range(tokenizer.vocab_size))]
        parameter = model.output.weight
        self._device = parameter.device
        self._start = model.init_state(1, device=parameter.device, dtype=parameter.dtype)

    def start(self, hotwords: Hotwords | None = None) -> Read:
        return Read(self._start, BOUNDARY, 0.0)

    def extend(self, prefixes: Sequence[Read], tokens: Sequence[int]) -> Ways:
        self._resolve(prefixes)
        return Ways.each(
            [
                Read(p.state, token, p.bonus + self.weight * float(p.after[token]) + self._bonus[token])
                for p, token in zip(prefixes, tokens, strict=True)
            ]
        )

    def finish(self, prefixes: Sequence[Read]) -> list[Read]:
        self._resolve(prefixes)
        return [Read(p.state, BOUNDARY, p.bonus + self.weight * float(p.after[BOUNDARY])) for p in prefixes]

    def words(self, prefix: Read) -> None:
        return None

    def _resolve(self, prefixes: Sequence[Read]) -> None:
        new = list({id(p): p for p in prefixes if p.after is None}.values())
        if not new:
            return
        tokens = torch.tensor([[p.token] for p in new], device=self._device)
        with torch.inference_mode():
            ones = torch.ones(len(new), dtype=torch.long, device=self._device)
            logits, states = self.model.step(tokens, ones, stack_rows([p.state for p in new]))
            after = logits[:, 0].float().log_softmax(-1).cpu().numpy()
        for row, p in enumerate(new):
            p.state, p.after = take_rows(states, [row]), after[row]


class TextScorer:
    """Adds weight ln p(text) to the scores of an n-best list, and sorts it anew."""

    def __init__(self, lm: LoadedLm, tokenizer: Tokenizer, *, weight: float):
        """tokenizer: the recogniser's."""
        self.lm, self.tokenizer, self.weight = lm, tokenizer, weight

    def __call__(self, nbest: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
        texts = sorted({text_of(h, self.tokenizer) for some in nbest for h in some})
        ids = [self.lm.tokenizer.encode(text) for text in texts]
        device = self.lm.model.output.weight.device
        lengths = torch.tensor([len(some) for some in ids], device=device)
        width = max(map(len, ids), default=0)
        tokens = torch.tensor([[*some, *[0] * (width - len(some))] for some in ids], dtype=torch.long, device=device)
        with torch.inference_mode():
            worth = dict(zip(texts, (-self.weight * self.lm.model.loss(tokens, lengths)).tolist(), strict=True))
        scored = [[replace(h, score=h.score + worth[text_of(h, self.tokenizer)]) for h in some] for some in nbest]
        return [sorted(some, key=lambda h: -h.score) for some in scored]


def same_units(lm: LoadedLm, tokenizer: Tokenizer) -> bool:
    """Whether a language model can be asked at every unit of a recogniser."""
    return tokenizer.KIND != "phone" and same_pieces(tokenizer, lm.tokenizer)
