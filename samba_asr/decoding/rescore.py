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

from samba_asr.decoding.base import Decoder, Hypothesis, stack, take
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.errors import UserError
from samba_asr.runtime.base import Frames, SecondPass
from samba_asr.streaming import State, leaves, stack_rows, take_rows

if TYPE_CHECKING:
    from samba_asr.decoding.neural import TextScorer


def rescore(
    decoder: SecondPass | None, hypotheses: list[list[Hypothesis]], memory: State, weight: float
) -> list[list[Hypothesis]]:
    """Each row's hypotheses with their joint score, best first; equals stay in the order of the first pass.

    hypotheses: the n-best of each row, lists of any lengths; the empty text is a hypothesis like others.
    memory:     the decoder's state after all speech of the rows (`MambaDecoder.absorb`), the same number of rows.
    weight:     0 (CTC alone) to 1 (decoder alone).
    UserError if there is no decoder or the weight is out of range.
    """
    decoder = check(decoder, weight)
    rows = [row for row, some in enumerate(hypotheses) for _ in some]
    texts = [h.tokens for some in hypotheses for h in some]
    if not texts:
        return [[] for _ in hypotheses]
    device = leaves(memory)[0].device
    lengths = torch.tensor([len(text) for text in texts], device=device)  # (n,)
    width = max(len(text) for text in texts)
    tokens = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts], dtype=torch.long, device=device)
    # The speech was scanned once a row; every text of a row reads the state that is left of it.
    memory = take_rows(memory, torch.tensor(rows, device=device))
    scores = iter((-decoder.loss(tokens, lengths, memory)).tolist())
    joint = [[replace(h, score=(1 - weight) * h.score + weight * next(scores)) for h in some] for some in hypotheses]
    return [sorted(some, key=lambda h: -h.score) for some in joint]


def check(decoder: SecondPass | None, weight: float) -> SecondPass:
    """The decoder; UserError unless it can rescore with this weight."""
    if not 0 <= weight <= 1:
        raise UserError(f"decode.search.rescore={weight} is the decoder's share of the score: 0 (CTC alone) to 1")
    if decoder is None:
        raise UserError(
            f"decode.search.rescore={weight} needs a decoder, and this model has none (model.decoder.layers=0): "
            "use decode.search.rescore=0, or a model trained with a decoder"
        )
    return decoder


class TwoPassState(NamedTuple):
    search: Any  # of the first pass
    memory: State  # what the second pass holds of the speech; () without one


class TwoPass:
    """Search and, where `weight` is above 0, the second pass: from frames of a runtime to hypotheses.

    Used like a search (`samba_asr.decoding.base.Decoder`) on `Frames` in place of log-probabilities: frames may come in
    chunks cut anywhere, and the decoder reads along, so at the end only the texts cost anything.
    decoder: of the second pass.
    nbest: hypotheses of the first pass that the second one reads.
    reader: a language model that reads the texts of the first pass, before the decoder does.
    hotwords: phrases that every session expects, but for those with phrases of their own; they need a beam with a guide.
    """

    def __init__(
        self,
        search: Decoder,
        decoder: SecondPass | None = None,
        *,
        weight: float = 0.0,
        nbest: int = 8,
        hotwords: Hotwords | None = None,
        reader: TextScorer | None = None,
    ):
        self.search, self.decoder, self.weight, self.nbest, self.hotwords = search, decoder, weight, nbest, hotwords
        self.reader = reader
        if weight:
            check(decoder, weight)

    def over(self, decoder: SecondPass | None) -> TwoPass:
        """The same with another decoder."""
        other = copy.copy(self)
        other.decoder = decoder
        return other

    @property
    def takes(self) -> frozenset[str]:
        """What the search of the first pass takes (`Decoder.takes`)."""
        return self.search.takes

    def init_state(self, batch: int, hotwords: Hotwords | None = None) -> TwoPassState:
        """The state of `batch` rows that have seen no frame."""
        memory = self.decoder.init_memory(batch) if self.weight and self.decoder else ()
        return TwoPassState(self.search.init_state(batch, self.hotwords if hotwords is None else hotwords), memory)

    def step(self, frames: Frames, state: TwoPassState) -> TwoPassState:
        """Read the next frames of each row."""
        memory = ()
        if self.weight and self.decoder:
            memory = self.decoder.absorb(frames.encoder, frames.lengths, state.memory)
        return TwoPassState(self.search.step(frames.log_probs, frames.lengths, state.search), memory)

    def finish(self, state: TwoPassState) -> TwoPassState:
        """The state after the end of input."""
        return state._replace(search=self.search.finish(state.search))

    def take(self, state: TwoPassState, rows: Sequence[int]) -> TwoPassState:
        """The state of `rows`, in that order."""
        return TwoPassState(take(state.search, rows), take_rows(state.memory, rows))

    def stack(self, states: Sequence[TwoPassState]) -> TwoPassState:
        """One state with the rows of all `states`, in order."""
        return TwoPassState(stack([s.search for s in states]), stack_rows([s.memory for s in states]))

    def first_pass(self, state: TwoPassState, nbest: int = 1) -> list[list[Hypothesis]]:
        """For each row at most `nbest` hypotheses of the first pass alone, best first; they may lack times."""
        return self.search.hypotheses(state.search, nbest, timed=False)

    def hypotheses(self, state: TwoPassState, nbest: int = 1) -> list[list[Hypothesis]]:
        """For each row at least 1 and at most `nbest`, best first: of the second pass if there is one."""
        if not self.weight and self.reader is None:
            return self.search.hypotheses(state.search, nbest)
        found = self.search.hypotheses(state.search, max(nbest, self.nbest))
        if self.reader:
            found = self.reader(found)
        if not self.weight:
            return [some[:nbest] for some in found]
        return [some[:nbest] for some in rescore(self.decoder, found, state.memory, self.weight)]
