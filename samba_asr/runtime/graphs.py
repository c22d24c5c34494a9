"""The encoder's live step as a CUDA graph: where all sessions have one whole block, its hundreds of small launches become one.

A step of a few frames is so little work that launching it costs more than doing it.  A graph is recorded once for each number
of rows, block size and hop, and replayed on buffers of its own; rows are padded up to the next power of two, so that few are
recorded.  Padding rows belong to no session and start from zero state.

Shapes: b rows, t frames of the block, d channels.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from samba_asr.ops.blocks import Blocks, lay_blocks
from samba_asr.streaming import State, leaves, map_state

logger = logging.getLogger(__name__)

MOST = 16
"""Graphs kept: each holds the memory of its step.  Sizes that come when there are so many are run as they are."""

WARM_UP = 3  # steps on a side stream before recording: libraries set themselves up then

Run = Callable[[Tensor, State, Blocks], tuple[Tensor, State]]
Record = Callable[[Run, Tensor, State, Blocks], tuple[Callable[[], None], tuple[Tensor, State]]]


class Recorded(NamedTuple):
    """One recording, and everything that its replay reads or writes.

    A graph holds addresses, not tensors: memory that nobody holds is handed out again, and a replay would read what somebody
    else has put there.  So the inputs stay here, the index tensors of `blocks` among them.
    """

    x: Tensor  # (rows, t, d) and `state`: what each call fills in
    state: State
    blocks: Blocks
    replay: Callable[[], None]
    y: Tensor  # and `after`: where it writes
    after: State


def record_cuda(run: Run, x: Tensor, state: State, blocks: Blocks) -> tuple[Callable[[], None], tuple[Tensor, State]]:
    """A CUDA graph of `run` on these inputs, which may not ask the device anything: its replay, and its outputs.

    The caller keeps the inputs as long as it replays.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run(x, state, blocks)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may transcribe files meanwhile
        found = run(x, state, blocks)
    return graph.replay, found


class LayerGraphs:
    """`run(x, state, blocks) -> y, state` for rows that are one whole block each, recorded once for each size.

    Where recording or replaying fails, one warning says so, and every step from then on is run as it is.
    """

    def __init__(self, run: Run, record: Record = record_cuda):
        self._run, self._record = run, record
        self._recorded: dict[tuple[Any, ...], Recorded] = {}
        self._failed = False
        self._lock = threading.Lock()  # the buffers serve one call at a time

    def __call__(self, x: Tensor, state: State, keep: int) -> tuple[Tensor, State]:
        """x (b, t, d), all of it valid and one block; as `run`, with results that the next call leaves alone.

        The states are those after `keep` frames.
        """
        b, t, d = x.shape
        rows = 1 << (b - 1).bit_length()
        key = (rows, t, keep, d, x.dtype)
        with self._lock:
            if not self._failed and (key in self._recorded or len(self._recorded) < MOST):
                try:
                    return self._replayed(key, x, state, rows, keep)
                except RuntimeError as error:
                    self._failed = True
                    self._recorded.clear()
                    logger.warning("CUDA graphs are switched off, live steps go on without: %s", error)
        return self._run(x, state, one_block(b, t, keep, x.device))

    def _replayed(self, key: tuple[Any, ...], x: Tensor, state: State, rows: int, keep: int) -> tuple[Tensor, State]:
        if key not in self._recorded:
            self._recorded[key] = self._new(x, state, rows, keep)
        there, b = self._recorded[key], x.shape[0]
        for mine, theirs in zip((x, *leaves(state)), (there.x, *leaves(there.state)), strict=True):
            theirs[:b].copy_(mine)
        there.replay()
        return there.y[:b].clone(), map_state(lambda leaf: leaf[:b].clone(), there.after)

    def _new(self, x: Tensor, state: State, rows: int, keep: int) -> Recorded:
        wide = lambda leaf: leaf.new_zeros(rows, *leaf.shape[1:])  # noqa: E731
        x, state, blocks = wide(x), map_state(wide, state), one_block(rows, x.shape[1], keep, x.device)
        replay, (y, after) = self._record(self._run, x, state, blocks)
        return Recorded(x, state, blocks, replay, y, after)


def one_block(b: int, t: int, keep: int, device: torch.device) -> Blocks:
    """`b` rows of one block of `t` frames, of which states are handed on after `keep`."""
    blocks = lay_blocks(torch.full((b,), t, device=device), t, t)
    return blocks if keep == t else blocks._replace(keep=torch.full((b,), keep, device=device))
