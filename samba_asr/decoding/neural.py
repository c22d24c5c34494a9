"""Mamba language models in the search: as a guide at every unit, or over whole texts at the end.

As a guide (shallow fusion) the model must have the recognizer's units.  A prefix's view holds the model's state after the prefix
and the log-probability of every next unit.  Both are computed when the prefix is first extended, so only for prefixes that
survive; all prefixes of a frame share one batch.

    bonus = weight ln p(units) + word bonus * words       and at the end weight ln p(end | units)

Over the n-best list any language model will do, because it reads the texts with units of its own.  Where the search keeps word
lattices, it reads these instead (`samba_asr.decoding.lattice_lm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from samba_asr.decoding.base import Hypothesis, text_of
from samba_asr.decoding.guide import Extensions, Tokens
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.models.lm import MambaLm
from samba_asr.models.lm_folder import LoadedLm
from samba_asr.streaming import State, stack_rows, take_rows
from samba_asr.text.units import BOUNDARY, SPACE, Tokenizer


class LmPrefix:
    """View of a prefix.  Until the prefix is extended, it holds the parent's state and the last unit."""

    __slots__ = ("after", "bonus", "state", "token")
    label = 0
    credit = 0.0
    recombination = 0  # the state depends on all units, so no two prefixes are equal

    def __init__(self, state: State, token: int, bonus: float):
        self.state, self.token, self.bonus = state, token, bonus
        self.after: np.ndarray | None = None  # (v,) ln p of each next unit; once set, `state` is the one after `token`

    def log_prob(self, unit: int) -> float:
        """Return ln p of a next unit, once `after` is set."""
        assert self.after is not None
        return float(self.after[unit])


class MambaGuide:
    """Guide by a Mamba language model (`samba_asr.decoding.guide.Guide`); it forbids nothing."""

    def __init__(self, model: MambaLm, tokenizer: Tokenizer, *, weight: float, bonus: float = 0.0):
        """weight: of the model.  bonus: nats, added for each word."""
        self.model, self.weight = model, weight
        self._bonus = [bonus * piece.startswith(SPACE) for piece in tokenizer.pieces(range(tokenizer.vocab_size))]
        parameter = model.output.weight
        self._device = parameter.device
        self._start = model.init_state(1, device=parameter.device, dtype=parameter.dtype)

    def start(self, hotwords: Hotwords | None = None) -> LmPrefix:
        return LmPrefix(self._start, BOUNDARY, 0.0)

    def extend(self, prefixes: Sequence[LmPrefix], tokens: Tokens) -> Extensions:
        self._resolve(prefixes)
        return Extensions.each(
            [
                LmPrefix(p.state, token, p.bonus + self.weight * p.log_prob(token) + self._bonus[token])
                for p, token in zip(prefixes, tokens, strict=True)
            ]
        )

    def finish(self, prefixes: Sequence[LmPrefix]) -> list[LmPrefix]:
        self._resolve(prefixes)
        return [LmPrefix(p.state, BOUNDARY, p.bonus + self.weight * p.log_prob(BOUNDARY)) for p in prefixes]

    def words(self, prefix: LmPrefix) -> None:
        return None

    def _resolve(self, prefixes: Sequence[LmPrefix]) -> None:
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
    """Scorer of n-best lists: adds weight ln p(text) to each score and sorts again."""

    reads_lattices = False

    def __init__(self, lm: LoadedLm, tokenizer: Tokenizer, *, weight: float):
        """tokenizer: the recognizer's."""
        self.lm, self.tokenizer, self.weight = lm, tokenizer, weight

    def __call__(self, nbest: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
        texts = sorted({text_of(h, self.tokenizer) for some in nbest for h in some})
        ids = [self.lm.tokenizer.encode(text) for text in texts]
        device = self.lm.model.output.weight.device
        lengths = torch.tensor([len(some) for some in ids], device=device)
        width = max(map(len, ids), default=0)
        tokens = torch.tensor([[*some, *[0] * (width - len(some))] for some in ids], dtype=torch.long, device=device)
        with torch.inference_mode():
            scores = dict(zip(texts, (-self.weight * self.lm.model.loss(tokens, lengths)).tolist(), strict=True))
        scored = [[replace(h, score=h.score + scores[text_of(h, self.tokenizer)]) for h in some] for some in nbest]
        return [sorted(some, key=lambda h: -h.score) for some in scored]
