"""Interface of all searches, and operations on the rows of their states.

A search is used like a streaming layer (`samba_asr.streaming`): `step` takes the next chunk of frames of every row,
of any length, and returns a new state; the old state stays valid.  Successive steps give exactly the state of one step
over the joined chunks.  A row whose length is 0 keeps its state.  Rows never influence each other.

A state is a NamedTuple of numpy arrays whose first axis is the row (object arrays where a row holds lists or trees).
So `take` and `stack` below serve every search: with them sessions are admitted, dropped, reordered and reset.

    b  rows     t  frames     v  ids, 0 is the CTC blank
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np

from samba_asr.text.units import Tokenizer

if TYPE_CHECKING:
    import torch

    from samba_asr.config import SearchConfig
    from samba_asr.decoding.guide import Guide
    from samba_asr.decoding.hotwords import Hotwords

BLANK = 0
ALL = frozenset({"nbest", "lm", "hotwords"})
"""Everything that a search may support: see `Search.takes`."""

State = TypeVar("State", bound=tuple[Any, ...])


@dataclass(frozen=True)
class Hypothesis:
    """One reading of the frames seen so far.

    tokens: ids without blanks.
    score:  natural logarithm of a probability; each search documents which.
    times:  index of the encoder frame where each token begins, counted from the start of the session.
    words:  reading of the tokens by a lexicon; None where the tokens spell the text themselves.
    """

    tokens: tuple[int, ...] = ()
    score: float = 0.0
    times: tuple[int, ...] = ()
    words: tuple[str, ...] | None = None


def text_of(hypothesis: Hypothesis, tokenizer: Tokenizer) -> str:
    """Return the text of a hypothesis: its words, or the spelling of its tokens."""
    if hypothesis.words is not None:
        return " ".join(hypothesis.words)
    return tokenizer.decode(hypothesis.tokens)


class Search(Protocol[State]):
    """Search over frames (b, t, v) of log-probabilities; the head of this file has the contract.

    `samba_asr.decoding.searches` lists searches by name.
    """

    takes: ClassVar[frozenset[str]]
    """Of `ALL`: "nbest" if it finds several hypotheses, so that a second pass can choose; "lm" if language models can guide
    it; "hotwords" if `init_state` takes phrases, which needs a guide too."""

    @classmethod
    def from_config(cls, config: SearchConfig, guide: Guide | None = None, *, counts_words: bool = True) -> Search:
        """Make a search from `config`.

        guide: language models and hotwords; only for a search that takes them.
        counts_words: whether the guide has an n-gram of words.
        """
        ...

    def init_state(self, batch: int, hotwords: Hotwords | None = None) -> State:
        """Make the state of `batch` rows before the first frame.  ValueError for hotwords if the search takes none."""
        ...

    def step(self, log_probs: torch.Tensor | np.ndarray, lengths: torch.Tensor | np.ndarray, state: State) -> State:
        """Process `lengths` (b,) frames, 0 .. t, of each row of `log_probs` (b, t, v); frames beyond are ignored."""
        ...

    def finish(self, state: State) -> State:
        """Return the state after the end of input."""
        ...

    def hypotheses(self, state: State, nbest: int = 1, timed: bool = True) -> list[list[Hypothesis]]:
        """Return for each row 1 to `nbest` hypotheses, distinct in tokens or words, best first.

        timed: False skips the walk along every alignment: hypotheses with words may then lack tokens and times.
        """
        ...


def take(state: State, rows: Sequence[int] | np.ndarray) -> State:
    """Return the state of `rows`, in that order; a row may be taken twice, and both copies are then independent."""
    index = np.asarray(rows, dtype=np.int64)
    return type(state)(*(field[index] for field in state))


def stack(states: Sequence[State]) -> State:
    """Join `states` into one state with all their rows, in order."""
    return type(states[0])(*(np.concatenate(fields) for fields in zip(*states, strict=True)))


def frames_of(log_probs: torch.Tensor | np.ndarray, t: int) -> np.ndarray:
    """Return the first t frames of `log_probs` (b, ., v), from any device and of any dtype, as float64 (b, t, v) in one piece."""
    first: Any = log_probs[:, :t]
    return np.ascontiguousarray(first if isinstance(first, np.ndarray) else first.detach().cpu().double(), np.float64)


def checked_lengths(
    log_probs: torch.Tensor | np.ndarray, lengths: torch.Tensor | np.ndarray | Sequence[int], rows: int
) -> np.ndarray:
    """Return `lengths` as an int64 array (b,); ValueError unless frames, lengths and the state's rows fit together."""
    given: Any = lengths
    found = np.asarray(given.cpu() if hasattr(given, "cpu") else given, dtype=np.int64)
    if log_probs.ndim != 3 or found.shape != (rows,) or log_probs.shape[0] != rows:
        raise ValueError(
            f"a state of {rows} rows needs log_probs (b={rows}, t, v) and lengths ({rows},), "
            f"got {tuple(log_probs.shape)} and {found.shape}"
        )
    if rows and (found.min() < 0 or found.max() > log_probs.shape[1]):
        raise ValueError(f"lengths must be 0 .. t={log_probs.shape[1]}, got {found.tolist()}")
    return found
