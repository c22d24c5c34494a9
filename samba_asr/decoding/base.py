"""What every search offers, and the rows of its state.

A search is used like a streaming layer (`samba_asr.streaming`): `step` takes the next chunk of frames of every row,
of any length, and returns a new state; the old one stays valid.  Successive steps give exactly the state of one step
over the chunks joined.  A row whose length is 0 keeps its state.  Rows never influence each other.

A state is a NamedTuple of numpy arrays whose first axis is the row (object arrays where a row holds lists or trees).
So `take` and `stack` below serve every search: they admit, drop, reorder and reset sessions.

    b  rows     t  frames     v  ids, 0 is the CTC blank
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch

from samba_asr.text.units import Tokenizer

if TYPE_CHECKING:
    from samba_asr.config import SearchConfig
    from samba_asr.decoding.guide import Guide
    from samba_asr.decoding.hotwords import Hotwords

BLANK = 0
ALL = frozenset({"nbest", "lm", "hotwords"})
"""What a search may take: see `Decoder.takes`."""

State = TypeVar("State", bound=tuple[Any, ...])


@dataclass(frozen=True)
class Hypothesis:
    """One reading of the frames seen so far.

    tokens: ids without blanks.
    score:  natural logarithm of a probability; what it is the probability of, the search says.
    times:  for each token the index of the encoder frame where it begins, counted from the start of the session.
    words:  how a lexicon reads the tokens; None where the tokens spell the text themselves.
    """

    tokens: tuple[int, ...] = ()
    score: float = 0.0
    times: tuple[int, ...] = ()
    words: tuple[str, ...] | None = None


def text_of(hypothesis: Hypothesis, tokenizer: Tokenizer) -> str:
    """By its words, or as its tokens spell."""
    if hypothesis.words is not None:
        return " ".join(hypothesis.words)
    return tokenizer.decode(hypothesis.tokens)


class Decoder(Protocol[State]):
    """A search over frames (b, t, v) of log-probabilities; see the head of this file for what holds.

    `samba_asr.decoding.searches` has them by name.
    """

    takes: ClassVar[frozenset[str]]
    """Of `ALL`: "nbest" if it finds several hypotheses, so that a second pass can choose; "lm" if language models can guide
    it; "hotwords" if `init_state` takes phrases, which needs a guide too."""

    @classmethod
    def from_config(cls, config: SearchConfig, guide: Guide | None = None, *, counts_words: bool = True) -> Decoder:
        """The search as `config` has it.

        guide: of language models and hotwords, which only a search that takes them gets.  counts_words: whether it has an
        n-gram of words.
        """
        ...

    def init_state(self, batch: int, hotwords: Hotwords | None = None) -> State:
        """The state of `batch` rows that have seen no frame.  ValueError for hotwords that it does not take."""
        ...

    def step(self, log_probs: torch.Tensor, lengths: torch.Tensor, state: State) -> State:
        """Read `lengths` (b,) frames, 0 .. t, of each row of `log_probs` (b, t, v); what lies beyond never matters."""
        ...

    def finish(self, state: State) -> State:
        """The state after the end of input."""
        ...

    def hypotheses(self, state: State, nbest: int = 1, timed: bool = True) -> list[list[Hypothesis]]:
        """For each row at least 1 and at most `nbest` hypotheses, distinct in tokens or words, best first.

        timed: False spares the walk along every alignment: those that a guide reads in words may lack tokens and times.
        """
        ...


def take(state: State, rows: Sequence[int]) -> State:
    """The state of `rows`, in that order; a row may be taken twice (both then go their own way)."""
    index = np.asarray(rows, dtype=np.int64)
    return type(state)(*(field[index] for field in state))


def stack(states: Sequence[State]) -> State:
    """One state with the rows of all `states`, in order."""
    return type(states[0])(*(np.concatenate(fields) for fields in zip(*states, strict=True)))


def checked_lengths(log_probs: torch.Tensor, lengths: torch.Tensor, rows: int) -> np.ndarray:
    """`lengths` as an int64 array (b,), after a check that frames, lengths and the state's rows belong together."""
    found = np.asarray(torch.as_tensor(lengths).cpu(), dtype=np.int64)
    if log_probs.dim() != 3 or found.shape != (rows,) or log_probs.shape[0] != rows:
        raise ValueError(
            f"a state of {rows} rows needs log_probs (b={rows}, t, v) and lengths ({rows},), "
            f"got {tuple(log_probs.shape)} and {found.shape}"
        )
    if rows and (found.min() < 0 or found.max() > log_probs.shape[1]):
        raise ValueError(f"lengths must be 0 .. t={log_probs.shape[1]}, got {found.tolist()}")
    return found
