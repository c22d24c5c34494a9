"""The second pass: the decoder reads the n-best of the first and has its say; and both passes as one, chunk by chunk.

Every hypothesis gets the score

    (1 - weight) log p_ctc(text | speech) + weight log p_decoder(text, end | speech)

the joint score of hybrid CTC models (S. Watanabe et al., "Hybrid CTC/attention architecture for end-to-end speech
recognition", 2017, eq. 15), for a list of texts rather than inside a search.  There is no bonus for length: both are
probabilities of whole texts, CTC's holds deletions in check, and a list made by CTC holds no text without an end.

    b  rows     t  encoder frames     n  hypotheses of all rows together     u  tokens
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from samba_asr.decoding.base import Decoder, Hypothesis, stack, take
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.errors import UserError
from samba_asr.streaming import State, stack_rows, take_rows

if TYPE_CHECKING:
    from samba_asr.decoding.neural import TextScorer
    from samba_asr.models.asr import AsrModel
    from samba_asr.models.decoder import MambaDecoder


def rescore(
    decoder: MambaDecoder | None, hypotheses: list[list[Hypothesis]], memory: State, weight: float
) -> list[list[Hypothesis]]:
    """Each row's hypotheses with their joint score, best first; equals stay in the order of the first pass.

    hypotheses: the n-best of each row, lists of any lengths; the empty text is a hypothesis like others.
    memory:     the decoder's state after all speech of the rows (`MambaDecoder.absorb`), the same number of rows.
    weight:     0 (CTC alone) to 1 (decoder alone).
    UserError if there is no decoder or the weight is out of range.
    """
    check(decoder, weight)
    rows = [row for row, some in enumerate(hypotheses) for _ in some]
    texts = [h.tokens for some in hypotheses for h in some]
    if not texts:
        return [[] for _ in hypotheses]
    device = decoder.output.weight.device
    lengths = torch.tensor([len(text) for text in texts], device=device)  # (n,)
    width = max(len(text) for text in texts)
    tokens = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts], dtype=torch.long, device=device)
    # The speech was scanned once a row; every text of a row reads the state that is left of it.
    memory = take_rows(memory, torch.tensor(rows, device=device))
    scores = iter((-decoder.loss(tokens, lengths, memory)).tolist())
    joint = [[replace(h, score=(1 - weight) * h.score + weight * next(scores)) for h in some] for some in hypotheses]
    return [sorted(some, key=lambda h: -h.score) for some in joint]


def check(decoder: MambaDecoder | None, weight: float) -> None:
    """UserError unless this decoder can rescore with this weight."""
    if not 0 <= weight <= 1:
        raise UserError(f"decode.rescore={weight} is the decoder's share of the score: 0 (CTC alone) to 1")
    if decoder is None:
        raise UserError(
            f"decode.rescore={weight} needs a decoder, and this model has none (model.decoder.layers=0): "
            "use decode.rescore=0, or a model trained with a decoder"
        )


class TwoPassState(NamedTuple):
    search: Any  # of the first pass
    memory: State  # what the decoder holds of the speech; () without a second pass


class TwoPass:
    """CTC head, search and, where `weight` is above 0, the second pass: from encoder frames to hypotheses.

    Used like a search (`samba_asr.decoding.base.Decoder`) on encoder frames (b, t, d) in place of log-probabilities:
    frames may come in chunks cut anywhere, and the decoder listens along, so at the end only the texts cost anything.
    nbest: hypotheses of the first pass that the second one reads.
    reader: a language model that reads the texts of the first pass, before the decoder does.
    hotwords: phrases that every session expects, but for those with phrases of their own; they need a beam with a guide.
    """

    def __init__(
        self,
        model: AsrModel,
        search: Decoder,
        *,
        weight: float = 0.0,
        nbest: int = 8,
        hotwords: Hotwords | None = None,
        reader: TextScorer | None = None,
    ):
        self.model, self.search, self.weight, self.nbest, self.hotwords = model, search, weight, nbest, hotwords
        self.reader = reader
        if weight:
            check(model.decoder, weight)

    def over(self, model: AsrModel) -> TwoPass:
        """The same with other weights."""
        other = copy.copy(self)
        other.model = model
        return other

    def init_state(self, batch: int, hotwords: Hotwords | None = None) -> TwoPassState:
        weight = self.model.ctc.linear.weight
        memory = self.model.decoder.init_memory(batch, device=weight.device, dtype=weight.dtype) if self.weight else ()
        hotwords = self.hotwords if hotwords is None else hotwords
        search = self.search.init_state(batch) if hotwords is None else self.search.init_state(batch, hotwords)
        return TwoPassState(search, memory)

    def log_probs(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """What the CTC head says of encoder frames: (b, t, v)."""
        return self.model.ctc(frames, lengths)[0]

    def step(
        self, frames: Tensor, lengths: Tensor, state: TwoPassState, log_probs: Tensor | None = None
    ) -> TwoPassState:
        """log_probs: those of `frames`, where they are known already."""
        if log_probs is None:
            log_probs = self.log_probs(frames, lengths)
        memory = self.model.decoder.absorb(frames, lengths, state.memory) if self.weight else ()
        return TwoPassState(self.search.step(log_probs, lengths, state.search), memory)

    def finish(self, state: TwoPassState) -> TwoPassState:
        return state._replace(search=self.search.finish(state.search))

    def take(self, state: TwoPassState, rows: Sequence[int]) -> TwoPassState:
        """The state of `rows`, in that order."""
        return TwoPassState(take(state.search, rows), take_rows(state.memory, rows))

    def stack(self, states: Sequence[TwoPassState]) -> TwoPassState:
        """One state with the rows of all `states`, in order."""
        return TwoPassState(stack([s.search for s in states]), stack_rows([s.memory for s in states]))

    def hypotheses(self, state: TwoPassState, nbest: int = 1) -> list[list[Hypothesis]]:
        """For each row at least 1 and at most `nbest`, best first: of the second pass if there is one."""
        if not self.weight and self.reader is None:
            return self.search.hypotheses(state.search, nbest)
        found = self.search.hypotheses(state.search, max(nbest, self.nbest))
        if self.reader:
            found = self.reader(found)
        if not self.weight:
            return [some[:nbest] for some in found]
        return [some[:nbest] for some in rescore(self.model.decoder, found, state.memory, self.weight)]
