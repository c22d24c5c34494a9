"""The encoder's live step as a CUDA graph: one launch in place of hundreds, where every session has one whole block.

A step of a few frames takes longer to launch than to compute.  A graph is recorded once for each number of rows, block size and
hop, and replayed on its own buffers.  Rows are padded to the next power of two, so that few graphs are recorded.  Padding rows
belong to no session and start from zero state.

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
"""Graphs kept, at most: each holds the memory of its step.  Further sizes run without a graph."""

WARM_UP = 3  # steps on a side stream before recording, in which libraries initialize

Run = Callable[[Tensor, State, Blocks], tuple[Tensor, State]]
Record = Callable[[Run, Tensor, State, Blocks], tuple[Callable[[], None], tuple[Tensor, State]]]


class Recorded(NamedTuple):
    """One recording, with everything that its replay reads or writes.

    A graph holds addresses, not tensors.  Memory without a reference is reused, and a replay would then read foreign data.  So
    the inputs stay here, the index tensors of `blocks` included.
    """

    x: Tensor  # (rows, t, d); each call fills in `x` and `state`
    state: State
    blocks: Blocks
    replay: Callable[[], None]
    y: Tensor  # (rows, t, d); the replay writes `y` and `after`
    after: State


def record_cuda(run: Run, x: Tensor, state: State, blocks: Blocks) -> tuple[Callable[[], None], tuple[Tensor, State]]:
    """Record a CUDA graph of `run` on these inputs; return its replay and its outputs.

    `run` must not wait for the device.  The caller keeps the inputs as long as it replays.
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
    """`run(x, state, blocks) -> y, state` for rows of one whole block each, recorded once for each size.

    If recording or replaying fails, one warning is logged, and every later step runs without a graph.
    """

    def __init__(self, run: Run, record: Record = record_cuda):
        self._run, self._record = run, record
        self._recorded: dict[tuple[Any, ...], Recorded] = {}
        self._failed = False
        self._lock = threading.Lock()  # the buffers serve one call at a time

    def __call__(self, x: Tensor, state: State, keep: int) -> tuple[Tensor, State]:
        """Run one step: x (b, t, d) is one valid block.  The next call does not change these results.

        keep: frames after which the states are taken.
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
                    logger.warning("CUDA graphs are switched off; live steps run without them: %s", error)
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
    """Lay out `b` rows of one block of `t` frames, with states taken after `keep` frames."""
    blocks = lay_blocks(torch.full((b,), t, device=device), t, t)
    return blocks if keep == t else blocks._replace(keep=torch.full((b,), keep, device=device))
