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
from collections.abc import Callable, Sequence
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


class Without(NamedTuple):
    """Beside the search of a row that has hotwords: the same search without them."""

    hotwords: Hotwords
    search: Any  # of one row


class TwoPassState(NamedTuple):
    search: Any  # of the first pass
    memory: State  # what the second pass holds of the speech; () without one
    without: tuple[Without | None, ...]  # of each row; None where it has no hotwords


class TwoPass:
    """Search and, where `weight` is above 0, the second pass: from frames of a runtime to hypotheses.

    Used like a search (`samba_asr.decoding.base.Decoder`) on `Frames` in place of log-probabilities: frames may come in
    chunks cut anywhere, and the decoder reads along, so at the end only the texts cost anything.
    decoder: of the second pass.
    nbest: hypotheses of the first pass that the second one reads.
    reader: a language model that reads the texts of the first pass, before the decoder does.
    hotwords: phrases that every session expects, but for those with phrases of their own; they need a beam with a guide.

    A session with hotwords is searched without them too, and where none of them is said, that is its text: what is only expected
    changes nothing.  (It would, in one text of a hundred: a beam that looks elsewhere, too, may find something else.)
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
        hotwords = self.hotwords if hotwords is None else hotwords
        if hotwords is None or not hotwords.words:
            return TwoPassState(self.search.init_state(batch), memory, (None,) * batch)
        without = tuple(Without(hotwords, self.search.init_state(1)) for _ in range(batch))
        return TwoPassState(self.search.init_state(batch, hotwords), memory, without)

    def step(self, frames: Frames, state: TwoPassState) -> TwoPassState:
        """Read the next frames of each row."""
        memory = ()
        if self.weight and self.decoder:
            memory = self.decoder.absorb(frames.encoder, frames.lengths, state.memory)
        rows = [row for row, beside in enumerate(state.without) if beside]

        def step(search: Any) -> Any:
            return self.search.step(frames.log_probs[rows], frames.lengths[rows], search)

        search = self.search.step(frames.log_probs, frames.lengths, state.search)
        return TwoPassState(search, memory, _each_without(step, state.without))

    def finish(self, state: TwoPassState) -> TwoPassState:
        """The state after the end of input."""
        without = _each_without(self.search.finish, state.without)
        return state._replace(search=self.search.finish(state.search), without=without)

    def take(self, state: TwoPassState, rows: Sequence[int]) -> TwoPassState:
        """The state of `rows`, in that order."""
        without = tuple(state.without[row] for row in rows)
        return TwoPassState(take(state.search, rows), take_rows(state.memory, rows), without)

    def stack(self, states: Sequence[TwoPassState]) -> TwoPassState:
        """One state with the rows of all `states`, in order."""
        without = tuple(beside for s in states for beside in s.without)
        return TwoPassState(stack([s.search for s in states]), stack_rows([s.memory for s in states]), without)

    def first_pass(self, state: TwoPassState, nbest: int = 1) -> list[list[Hypothesis]]:
        """For each row at most `nbest` hypotheses of the first pass alone, best first; they may lack times."""
        return self.search.hypotheses(state.search, nbest, timed=False)

    def hypotheses(self, state: TwoPassState, nbest: int = 1) -> list[list[Hypothesis]]:
        """For each row at least 1 and at most `nbest`, best first: of the second pass if there is one."""
        return self._second(self._first(state, self._read(nbest)), state, nbest)

    def without_hotwords(self, state: TwoPassState, nbest: int = 1) -> list[Hypothesis] | None:
        """The same of the first row as if nothing were expected; None where nothing is."""
        if state.without[0] is None:
            return None
        found = self.search.hypotheses(state.without[0].search, self._read(nbest))
        return self._second(found, self.take(state, [0]), nbest)[0]

    def _read(self, nbest: int) -> int:
        """How many hypotheses of the first pass the second one reads."""
        return max(nbest, self.nbest) if self.weight or self.reader else nbest

    def _second(self, found: list[list[Hypothesis]], state: TwoPassState, nbest: int) -> list[list[Hypothesis]]:
        if self.reader:
            found = self.reader(found)
        if self.weight:
            found = rescore(self.decoder, found, state.memory, self.weight)
        return [some[:nbest] for some in found]

    def still_possible(self, state: TwoPassState) -> list[Hypothesis]:
        """Every hypothesis that the first row may still become, without tokens and times where a guide has words."""
        searches = [state.search, *(beside.search for beside in state.without[:1] if beside)]
        return [h for search in searches for h in self.search.hypotheses(search, nbest=1 << 30, timed=False)[0]]

    def _first(self, state: TwoPassState, nbest: int) -> list[list[Hypothesis]]:
        """Hypotheses of the first pass: those without hotwords where nothing was said of what was expected or avoided."""
        found = self.search.hypotheses(state.search, nbest)
        for row, beside in enumerate(state.without):
            if beside and not beside.hotwords.worth_of(found[row][0].tokens, found[row][0].words):
                plain = self.search.hypotheses(beside.search, nbest)[0]
                if beside.hotwords.worth_of(plain[0].tokens, plain[0].words) >= 0:
                    found[row] = plain
        return found


def _each_without(ask: Callable[[Any], Any], without: tuple[Without | None, ...]) -> tuple[Without | None, ...]:
    """`ask` all searches that there are, as one."""
    there = [row for row, beside in enumerate(without) if beside]
    if not there:
        return without
    answer, found = ask(stack([without[row].search for row in there])), list(without)
    for n, row in enumerate(there):
        found[row] = without[row]._replace(search=take(answer, [n]))
    return tuple(found)
