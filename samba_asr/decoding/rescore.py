"""The second pass, in which a decoder rescores the n-best list of the first; and all passes as one search, chunk by chunk.

Every hypothesis gets the score

    (1 - weight) log p_ctc(text | speech) + weight log p_decoder(text, end | speech)

the joint score of hybrid CTC models (S. Watanabe et al., "Hybrid CTC/attention architecture for end-to-end speech
recognition", 2017, eq. 15), for a list of texts rather than inside a search.  There is no bonus for length: both are
probabilities of whole texts, CTC's keeps deletions down, and all texts of a CTC n-best list are complete.

    b  rows     t  encoder frames     n  hypotheses of all rows together     u  tokens
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from samba_asr.decoding.align import Path
from samba_asr.decoding.base import Hypothesis, Search, stack, take
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.lattice import Lattice
from samba_asr.errors import UserError
from samba_asr.runtime.base import Frames, SecondPass

if TYPE_CHECKING:
    from samba_asr.decoding.generate import DecoderSearch
    from samba_asr.decoding.lattice_lm import LatticeLm
    from samba_asr.decoding.neural import TextScorer
    from samba_asr.decoding.prefix_beam import PrefixBeam


def rescore(
    decoder: SecondPass | None, hypotheses: list[list[Hypothesis]], memory: Any, weight: float
) -> list[list[Hypothesis]]:
    """Return each row's hypotheses with their joint scores, best first; equal ones stay in the order of the first pass.

    hypotheses: n-best list of each row, of any length; the empty text is a hypothesis like others.
    memory:     decoder state after all speech of the rows (`MambaDecoder.absorb`), as many rows.
    weight:     0 (CTC alone) to 1 (decoder alone).
    UserError if there is no decoder or the weight is out of range.
    """
    import torch

    from samba_asr.streaming import leaves, take_rows

    decoder = check(decoder, weight)
    rows = [row for row, some in enumerate(hypotheses) for _ in some]
    texts = [h.tokens for some in hypotheses for h in some]
    if not texts:
        return [[] for _ in hypotheses]
    device = leaves(memory)[0].device
    lengths = torch.tensor([len(text) for text in texts], device=device)  # (n,)
    width = max(len(text) for text in texts)
    tokens = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts], dtype=torch.long, device=device)
    # The speech was scanned once a row; every text of a row reads the same memory.
    with torch.inference_mode():
        memory = take_rows(memory, torch.tensor(rows, device=device))
        scores = iter((-decoder.loss(tokens, lengths, memory)).tolist())
    joint = [[replace(h, score=(1 - weight) * h.score + weight * next(scores)) for h in some] for some in hypotheses]
    return [sorted(some, key=lambda h: -h.score) for some in joint]


def check(decoder: SecondPass | None, weight: float) -> SecondPass:
    """Return the decoder; UserError unless it can rescore with this weight."""
    if not 0 <= weight <= 1:
        raise UserError(f"decode.search.rescore={weight} is the decoder's share of the score: 0 (CTC alone) to 1")
    if decoder is None:
        raise UserError(
            f"decode.search.rescore={weight} needs a decoder, and this model has none (model.decoder.layers=0): "
            "use decode.search.rescore=0, or a model trained with a decoder"
        )
    return decoder


class Without(NamedTuple):
    """Second search of a row that has hotwords: the same search without them."""

    hotwords: Hotwords
    search: Any  # of one row


class TwoPassState(NamedTuple):
    search: Any  # of the first pass
    memory: Any  # of the second pass, after the speech so far; () without one
    without: tuple[Without | None, ...]  # of each row; None where it has no hotwords
    heard: tuple[
        tuple[np.ndarray, ...] | None, ...
    ]  # of each row whose lattice is read: log-probabilities (t, v) so far


class TwoPass:
    """Search and, if `weight` is above 0, the second pass: from a runtime's frames to hypotheses.

    With a `DecoderSearch` the decoder writes the texts itself, after the last frame: `generates`.

    It is used like a search (`samba_asr.decoding.base.Search`), on `Frames` in place of log-probabilities.  Frames may come in
    chunks cut anywhere.  The decoder absorbs each chunk as it comes, so at the end only the texts must be scored.
    decoder: of the second pass.
    nbest: hypotheses of the first pass that the second pass scores.
    reader: language model that scores the texts of the first pass, before the decoder does: an n-best list, or a lattice.
    hotwords: default phrases of sessions that have no phrases of their own; they need beam search with a guide.

    A session with hotwords is searched without them too.  If no hotword is said, the text is that of the search without them, so
    hotwords change nothing then.  (Otherwise one text of a hundred would change, as hotwords compete for places in the beam.)
    """

    def __init__(
        self,
        search: Search,
        decoder: SecondPass | None = None,
        *,
        weight: float = 0.0,
        nbest: int = 8,
        hotwords: Hotwords | None = None,
        reader: TextScorer | LatticeLm | None = None,
    ):
        self.search, self.decoder, self.weight, self.nbest, self.hotwords = search, decoder, weight, nbest, hotwords
        self.reader = reader
        self.generates = getattr(search, "generates", False)  # whether the decoder writes, in place of a second pass
        if weight and self.generates:
            raise UserError(
                f"decode.search.rescore={weight}: where the decoder writes there is no second pass: use "
                "decode.search.rescore=0; decode.search.ctc is CTC's share of the score"
            )
        if weight:
            check(decoder, weight)
        if self.generates and decoder is None:
            raise UserError(
                "decode.search.method=decoder needs a decoder, and this model has none (model.decoder.layers=0): "
                "use decode.search.method=beam, or a model trained with a decoder"
            )

    def over(self, decoder: SecondPass | None) -> TwoPass:
        """Return the same passes with another decoder."""
        other = copy.copy(self)
        other.decoder = decoder
        return other

    @property
    def _absorbs(self) -> bool:
        return self.weight > 0 or self.generates

    @property
    def takes(self) -> frozenset[str]:
        """Features that the search of the first pass takes (`Search.takes`)."""
        return self.search.takes

    def warm(self) -> None:
        """Compile the search, where it is compiled."""
        getattr(self.search, "warm", lambda: None)()

    def init_state(self, batch: int, hotwords: Hotwords | None = None, reread: bool = True) -> TwoPassState:
        """Make the state of `batch` rows before the first frame.  reread: whether a language model reads their lattices."""
        heard = (() if reread and self._rereads else None,) * batch
        memory = self.decoder.init_memory(batch) if self._absorbs and self.decoder else ()
        hotwords = self.hotwords if hotwords is None else hotwords
        if hotwords is None or not hotwords.words:
            return TwoPassState(self.search.init_state(batch), memory, (None,) * batch, heard)
        without = tuple(Without(hotwords, self.search.init_state(1)) for _ in range(batch))
        return TwoPassState(self.search.init_state(batch, hotwords), memory, without, heard)

    def step(self, frames: Frames, state: TwoPassState) -> TwoPassState:
        """Process the next frames of each row."""
        memory = ()
        if self._absorbs and self.decoder:
            memory = _absorbed(self.decoder, frames, state.memory)
        heard = _heard(frames, state.heard)
        # The searches without hotwords are further rows of the same step, so that they share its batch, or its threads.
        n, there = len(state.without), [row for row, beside in enumerate(state.without) if beside]
        if not there:
            search = self.search.step(frames.log_probs, frames.lengths, state.search)
            return TwoPassState(search, memory, state.without, heard)
        rows = [*range(n), *there]
        joint = stack([state.search, *(beside.search for beside in state.without if beside)])
        joint = self.search.step(frames.log_probs[rows], frames.lengths[rows], joint)
        without = list(state.without)
        for place, row in enumerate(there, n):
            if beside := without[row]:
                without[row] = beside._replace(search=take(joint, [place]))
        return TwoPassState(take(joint, range(n)), memory, tuple(without), heard)

    def finish(self, state: TwoPassState) -> TwoPassState:
        """Return the state after the end of input."""
        without = _each_without(self.search.finish, state.without)
        return state._replace(search=self.search.finish(state.search), without=without)

    def take(self, state: TwoPassState, rows: Sequence[int]) -> TwoPassState:
        """Return the state of `rows`, in that order."""
        without = tuple(state.without[row] for row in rows)
        heard = tuple(state.heard[row] for row in rows)
        return TwoPassState(take(state.search, rows), _memory(state.memory, rows), without, heard)

    def stack(self, states: Sequence[TwoPassState]) -> TwoPassState:
        """Join `states` into one state with all their rows, in order."""
        without = tuple(beside for s in states for beside in s.without)
        heard = tuple(row for s in states for row in s.heard)
        return TwoPassState(stack([s.search for s in states]), _joined([s.memory for s in states]), without, heard)

    def require_partials(self) -> None:
        """Raise UserError if there is no text before the end of a segment."""
        if self.generates:
            raise UserError(
                "decode.search.method=decoder cannot stream: the decoder writes a segment when it has ended, so there are no "
                "partial texts: use decode.search.method=beam, or transcribe without --stream (partials=False)"
            )

    def first_pass(self, state: TwoPassState, nbest: int = 1) -> list[list[Hypothesis]]:
        """Return for each row at most `nbest` hypotheses of the first pass, best first; they may lack times."""
        self.require_partials()
        return self.search.hypotheses(state.search, nbest, timed=False)

    def hypotheses(self, state: TwoPassState, nbest: int = 1) -> list[list[Hypothesis]]:
        """Return for each row 1 to `nbest` hypotheses, best first; rescored if there is a second pass."""
        if self._rereads:
            rows = [self.take(state, [row]) for row in range(len(state.without))]
            found = [self._of_lattice(row, self._read(nbest))[0] for row in rows]
        else:
            found = self._first(state, self._read(nbest))
        return self._second(found, state, nbest)

    def without_hotwords(self, state: TwoPassState, nbest: int = 1) -> list[Hypothesis] | None:
        """Return the first row's hypotheses of the search without hotwords; None if the row has no hotwords."""
        if state.without[0] is None:
            return None
        if self._rereads:
            found = [self._of_lattice(self.take(state, [0]), self._read(nbest), without=True)[0]]
        else:
            found = self.search.hypotheses(state.without[0].search, self._read(nbest))
        return self._second(found, self.take(state, [0]), nbest)[0]

    def lattice(self, state: TwoPassState, without: bool = False) -> Lattice | None:
        """Return the word lattice of the first row of a finished state; None if the search keeps none.

        It is that of the search which `hypotheses` reads, or of the one without hotwords.
        """
        beside, search = state.without[0], take(state.search, [0])
        if beside and (without or self._unsaid(beside, self.search.hypotheses(search)[0])):
            search = beside.search
        ask = getattr(self.search, "lattices", None)
        return ask(search)[0] if ask else None

    def _read(self, nbest: int) -> int:
        """Return the number of first-pass hypotheses that the second pass scores."""
        return max(nbest, self.nbest) if self.weight or (self.reader and not self._rereads) else nbest

    @property
    def _rereads(self) -> bool:
        return self.reader is not None and self.reader.reads_lattices

    def _second(self, found: list[list[Hypothesis]], state: TwoPassState, nbest: int) -> list[list[Hypothesis]]:
        if self.reader and not self._rereads:
            found = cast("TextScorer", self.reader)(found)
        if self.weight:
            found = rescore(self.decoder, found, state.memory, self.weight)
        return [some[:nbest] for some in found]

    def with_lattice(
        self, state: TwoPassState, nbest: int = 1, without: bool = False
    ) -> tuple[list[Hypothesis], Lattice | None] | None:
        """Return the first row's `hypotheses`, and its lattice with the scores of all passes that read it.

        without: those of the search without hotwords; None if the row has no hotwords.
        """
        if not self._rereads:
            found = self.without_hotwords(state, nbest) if without else self.hypotheses(self.take(state, [0]), nbest)[0]
            return found if found is None else (found, self.lattice(state, without))
        if without and state.without[0] is None:
            return None
        row = self.take(state, [0])
        found, lattice = self._of_lattice(row, nbest, without)
        if self.weight:
            (found,) = rescore(self.decoder, [found], row.memory, self.weight)
        return found[:nbest], lattice

    def _of_lattice(
        self, state: TwoPassState, nbest: int, without: bool = False
    ) -> tuple[list[Hypothesis], Lattice | None]:
        """Let the language model read the lattice of the only row.  As in `_first`, hotwords count only where one is said."""
        beside, heard = state.without[0], state.heard[0]
        if beside is None:
            return self._read_by(state.search, heard, None, self.search.hypotheses(state.search, nbest)[0])
        hotwords, other = beside.hotwords, beside.search

        def said(read: tuple[list[Hypothesis], Lattice | None]) -> float:
            return hotwords.text_score(read[0][0].tokens, read[0][0].words)

        if not without:
            found = self.search.hypotheses(state.search, nbest)[0]
            if plain := self._unsaid(beside, found, nbest):
                return self._read_by(other, heard, None, plain)
            read = self._read_by(state.search, heard, hotwords, found)
            if said(read):
                return read
        plainly = self._read_by(other, heard, None, self.search.hypotheses(other, nbest)[0])
        return plainly if without or said(plainly) >= 0 else read

    def _read_by(
        self, search: Any, heard: Sequence[np.ndarray] | None, hotwords: Hotwords | None, found: list[Hypothesis]
    ) -> tuple[list[Hypothesis], Lattice | None]:
        """Let the language model read a lattice.  found: hypotheses of that search."""
        (lattice,) = cast("PrefixBeam", self.search).lattices(search)
        if lattice is None or not heard:
            return found, lattice
        return cast("LatticeLm", self.reader)(lattice, np.concatenate(heard), hotwords, found)

    @property
    def best_path(self) -> Path | None:
        """The search's own function for `samba_asr.decoding.align`, if it has one."""
        return getattr(self.search, "best_path", None)

    def shared_words(self, state: TwoPassState) -> list[str] | None:
        """Return the words with which all of `still_possible` begin, but for the last of each; None: the search does not say."""
        ask = getattr(self.search, "shared_words", None)
        return ask([state.search, *(beside.search for beside in state.without[:1] if beside)]) if ask else None

    def still_possible(self, state: TwoPassState) -> list[Hypothesis]:
        """Return all hypotheses that the first row may still become; those with words may lack tokens and times."""
        self.require_partials()
        searches = [state.search, *(beside.search for beside in state.without[:1] if beside)]
        return [h for search in searches for h in self.search.hypotheses(search, nbest=1 << 30, timed=False)[0]]

    def _first(self, state: TwoPassState, nbest: int) -> list[list[Hypothesis]]:
        """Return the first pass's hypotheses: without hotwords for rows in which no phrase was said or avoided."""
        if self.generates:
            return cast("DecoderSearch", self.search).generate(state.search, self.decoder, state.memory, nbest)
        found = self.search.hypotheses(state.search, nbest)
        for row, beside in enumerate(state.without):
            if beside and (plain := self._unsaid(beside, found[row], nbest)):
                found[row] = plain
        return found

    def _unsaid(self, beside: Without, found: list[Hypothesis], nbest: int = 1) -> list[Hypothesis] | None:
        """Return the hypotheses of the search without hotwords if no phrase was said or avoided, else None."""
        if beside.hotwords.text_score(found[0].tokens, found[0].words):
            return None
        plain = self.search.hypotheses(beside.search, nbest)[0]
        return plain if beside.hotwords.text_score(plain[0].tokens, plain[0].words) >= 0 else None


def _each_without(ask: Callable[[Any], Any], without: tuple[Without | None, ...]) -> tuple[Without | None, ...]:
    """Apply `ask` to the states of all searches that are not None, joined into one."""
    there = {row: beside for row, beside in enumerate(without) if beside}
    if not there:
        return without
    answer, found = ask(stack([beside.search for beside in there.values()])), list(without)
    for n, (row, beside) in enumerate(there.items()):
        found[row] = beside._replace(search=take(answer, [n]))
    return tuple(found)


def _heard(
    frames: Frames, before: tuple[tuple[np.ndarray, ...] | None, ...]
) -> tuple[tuple[np.ndarray, ...] | None, ...]:
    """Add the frames to rows that keep them."""
    if not any(old is not None for old in before):
        return before
    log_probs, lengths = (np.asarray(x) for x in (frames.log_probs, frames.lengths))
    new = [log_probs[row, :n].astype(np.float32) for row, n in enumerate(lengths.tolist())]
    return tuple(old if old is None or not len(some) else (*old, some) for old, some in zip(before, new, strict=True))


# Only with a second pass is there a memory, and only then is torch needed.


def _absorbed(decoder: SecondPass, frames: Frames, memory: Any) -> Any:
    import torch

    with torch.inference_mode():
        return decoder.absorb(frames.encoder, frames.lengths, memory)


def _memory(memory: Any, rows: Sequence[int]) -> Any:
    if not memory:
        return memory
    from samba_asr.streaming import take_rows

    return take_rows(memory, rows)


def _joined(memories: Sequence[Any]) -> Any:
    if not memories[0]:
        return memories[0]
    from samba_asr.streaming import stack_rows

    return stack_rows(memories)
