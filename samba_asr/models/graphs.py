"""The encoder's live step as a CUDA graph: where all sessions have one whole block, its hundreds of small launches become one.

A step of a few frames is so little work that launching it costs more than doing it.  A graph is recorded once for each number
of rows, block size and overlap, and replayed on buffers of its own; rows are filled up to the next power of two, so that few are
recorded.  The filling rows are of nobody, and start at zero.

Shapes: b rows, t frames of the block, d channels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from samba_asr.ops.blocks import Blocks, lay_blocks
from samba_asr.streaming import State, leaves, map_state

MOST = 16
"""Graphs kept: each holds the memory of its step.  Sizes that come when there are so many are run as they are."""

WARM_UP = 3  # steps on a side stream before recording: libraries set themselves up then


class Recorded(NamedTuple):
    x: Tensor  # (b, t, d) and `state`: where a replay reads
    state: State
    replay: Callable[[], None]
    y: Tensor  # and `after`: where it writes
    after: State


def record_cuda(act: Callable[[], tuple[Tensor, State]]) -> tuple[Callable[[], None], tuple[Tensor, State]]:
    """A CUDA graph of `act`, which may not ask the device anything: its replay, and where each leaves its results."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            act()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may transcribe files meanwhile
        found = act()
    return graph.replay, found


class LayerGraphs:
    """`run(x, state, blocks) -> y, state` for rows that are one whole block each, recorded once for each size."""

    def __init__(self, run: Callable[[Tensor, State, Blocks], tuple[Tensor, State]], record=record_cuda):
        self._run, self._record = run, record
        self._recorded: dict[tuple, Recorded] = {}
        self._lock = threading.Lock()  # the buffers are one's at a time

    def __call__(self, x: Tensor, state: State, keep: int) -> tuple[Tensor, State]:
        """x (b, t, d), all of it valid and one block; as `run`, with results that the next call leaves alone.

        The states are those behind `keep` frames.
        """
        b, t, d = x.shape
        rows = 1 << (b - 1).bit_length()
        key = (rows, t, keep, d, x.dtype)
        with self._lock:
            if key not in self._recorded and len(self._recorded) >= MOST:
                return self._run(x, state, one_block(b, t, keep, x.device))
            if key not in self._recorded:
                self._recorded[key] = self._new(x, state, rows, keep)
            there = self._recorded[key]
            for mine, theirs in zip((x, *leaves(state)), (there.x, *leaves(there.state)), strict=True):
                theirs[:b].copy_(mine)
            there.replay()
            return there.y[:b].clone(), map_state(lambda leaf: leaf[:b].clone(), there.after)

    def _new(self, x: Tensor, state: State, rows: int, keep: int) -> Recorded:
        wide = lambda leaf: leaf.new_zeros(rows, *leaf.shape[1:])  # noqa: E731
        x, state, blocks = wide(x), map_state(wide, state), one_block(rows, x.shape[1], keep, x.device)
        replay, (y, after) = self._record(lambda: self._run(x, state, blocks))
        return Recorded(x, state, replay, y, after)


def one_block(b: int, t: int, keep: int, device: torch.device) -> Blocks:
    blocks = lay_blocks(torch.full((b,), t, device=device), t, t)
    return blocks if keep == t else blocks._replace(keep=torch.full((b,), keep, device=device))
