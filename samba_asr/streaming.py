"""The streaming contract: one definition of every layer serves training, offline and live use.

    forward(x, lengths)            -> y, lengths            the whole utterance, in parallel
    step(x, lengths, state)        -> y, lengths, state     the next chunk, of any length
    finish(state)                  -> y, lengths            what the end of input releases

The valid outputs of successive `step`s and of `finish`, concatenated, ARE the valid outputs of `forward`, however time is
cut into chunks.  `tests/contract.py` checks it, in float64, for every module of the project.

State.    A tree (tuples, NamedTuples) of tensors, every leaf batch-first and of constant shape: sessions are rows.
Lengths.  Valid steps of each row (b,), left-aligned.  Padding after them may hold anything, NaN included: it reaches no
          output, no state and no gradient.  It must be masked before any product, because 0 * NaN is NaN (see `mask`).
          A row of length 0 keeps its state bit for bit, so sessions at different times share one batch.
Shapes.   b batch, t time, d channels.

One contract with one verifier is the idea of google/sequence-layers.  They have a fixed latency, we have ragged lengths: a
caller cannot trim the look-ahead before a recurrence, because its warm-up outputs would enter the state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = Any
"""A tree of batch-first tensors: a tensor, or a tuple / NamedTuple of trees.  `()` is the state of a stateless module."""
Ragged = tuple[Tensor, Tensor]
"""Rows of different lengths: y (b, t, d), and how many steps of each are valid (b,)."""


class Step(NamedTuple):
    """Result of a streaming step."""

    x: Tensor  # (b, t', d') outputs, left-aligned
    lengths: Tensor  # (b,) valid outputs
    state: State


class StreamingModule(nn.Module):
    """A layer that keeps the streaming contract.  A subclass defines `init_state` and `step`; if it delays output, `finish`."""

    stride: int = 1
    """Input steps per output step; a chunk's valid length is a multiple of it."""

    exportable: bool = False
    """Whether a mixer or head can be recorded as a graph (`samba_asr.runtime.export`): it has a form without a loop over time."""

    def init_state(self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> State:
        """Return the state before the first step, for `batch` rows."""
        raise NotImplementedError

    def step(self, x: Tensor, lengths: Tensor, state: State) -> Step:
        """Process the next chunk x (b, t, d) with `lengths` (b,) valid steps."""
        raise NotImplementedError

    def finish(self, state: State) -> tuple[Tensor, Tensor] | None:
        """Return the outputs that waited for more input, (b, t, d) and lengths (b,); None if there are none."""
        return None

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Process whole utterances: one step from the first state.  A subclass may override it with something faster."""
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype)
        y, lengths, state = self.step(x, lengths, state)
        return concat((y, lengths), self.finish(state))


class Stack(StreamingModule):
    """A sequence of streaming modules, which is a streaming module too."""

    def __init__(self, *layers: StreamingModule):
        super().__init__()
        self.layers = cast("Sequence[StreamingModule]", nn.ModuleList(layers))
        self.stride = 1
        for layer in layers:
            self.stride *= layer.stride

    def init_state(self, batch, *, device=None, dtype=None):
        return tuple(layer.init_state(batch, device=device, dtype=dtype) for layer in self.layers)

    def step(self, x, lengths, state):
        states = []
        for layer, old in zip(self.layers, state, strict=True):
            x, lengths, new = layer.step(x, lengths, old)
            states.append(new)
        return Step(x, lengths, tuple(states))

    def finish(self, state):
        out: Ragged | None = None
        for layer, old in zip(self.layers, state, strict=True):
            new = old
            if out is not None:
                y, lengths, new = layer.step(*out, old)
                out = y, lengths
            out = concat(out, layer.finish(new))
        return out

    def forward(self, x, lengths):
        for layer in self.layers:
            x, lengths = layer(x, lengths)
        return x, lengths


# ---- trees of rows ---------------------------------------------------------------------------------------------------


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply `function` to the corresponding tensors of trees of the same structure."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    parts = [map_state(function, *children) for children in zip(*states, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def leaves(state: State) -> list[Tensor]:
    """Return the tensors of a tree, in order."""
    if isinstance(state, Tensor):
        return [state]
    return [leaf for child in state for leaf in leaves(child)]


def stack_rows(states: Sequence[State]) -> State:
    """Concatenate the rows of `states`, in order, into one state."""
    return map_state(lambda *rows: torch.cat(rows), *states)


def take_rows(state: State, rows: Sequence[int] | Tensor) -> State:
    """Select rows of a state: sessions that go on, or the parents of beams.  Rows may repeat."""
    return map_state(lambda leaf: leaf[rows], state)


# ---- ragged time -----------------------------------------------------------------------------------------------------


def valid_mask(lengths: Tensor, t: int) -> Tensor:
    """Return (b, t) bool: True where a step is valid."""
    return torch.arange(t, device=lengths.device) < lengths[:, None]


def mask(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Zero the padding of x (b, t, ...) after `lengths`, NaN included; no gradient reaches it.  None: return x unchanged."""
    if lengths is None:
        return x
    valid = valid_mask(lengths, x.shape[1])
    return x.masked_fill(~valid.view(*valid.shape, *[1] * (x.dim() - 2)), 0)


def take_time(x: Tensor, index: Tensor) -> Tensor:
    """Return y[b, i] = x[b, index[b, i]] for x (b, t, ...) and index (b, i)."""
    return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand(*index.shape, *x.shape[2:]))


def tail(x: Tensor, lengths: Tensor | None, width: int) -> Tensor:
    """Return the context for the next chunk: the last `width` of the first width + lengths[b] steps of x (b, width + t, d).

    lengths None: the last `width` steps of each row.
    """
    if lengths is None:
        return x[:, x.shape[1] - width :]
    return take_time(x, lengths[:, None] + torch.arange(width, device=x.device))  # (b, width, d)


@overload
def concat(first: Ragged, second: Ragged | None) -> Ragged: ...
@overload
def concat(first: Ragged | None, second: Ragged) -> Ragged: ...
@overload
def concat(first: Ragged | None, second: Ragged | None) -> Ragged | None: ...
def concat(first: Ragged | None, second: Ragged | None) -> Ragged | None:
    """Join two ragged pieces (y (b, t, d), lengths (b,)) along time, row by row; None is an empty piece."""
    if first is None or second is None:
        return second if first is None else first
    (x, n), (y, m) = first, second
    index = torch.arange(x.shape[1] + y.shape[1], device=x.device)  # where each output step comes from, in [x ; y]
    index = torch.where(index < n[:, None], index, index - n[:, None] + x.shape[1])
    both = torch.cat([x, y], dim=1)
    return take_time(both, index.clamp(max=both.shape[1] - 1)), n + m


def pad_time(x: Tensor, before: int, after: int) -> Tensor:
    """Add zero steps before and after x (b, t, d)."""
    return F.pad(x, (0, 0) * (x.dim() - 2) + (before, after))
