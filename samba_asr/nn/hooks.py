"""Hooks around an optimizer step, for layers that learn without a gradient, such as codebooks of moving averages.

The trainer calls them for every module that defines them.  A step is a number of batches, then one update of the weights:

    before_step()   before the first batch; called again if the step restarts (out of memory)
    after_step()    after the update; not called for a skipped step

A layer with a codebook counts in `forward` (in training only), clears its counts in `before_step`, and updates its codes in
`after_step`.  It must ignore values that are not finite: a batch with a loss that is not finite was counted too.  Each process
counts its own batches.  Call `sum_over_processes` on the counts first, so that all processes update their codes alike.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor


@runtime_checkable
class BeforeStep(Protocol):
    """A module with a hook before each optimizer step."""

    def before_step(self) -> None: ...


@runtime_checkable
class AfterStep(Protocol):
    """A module with a hook after each optimizer step."""

    def after_step(self) -> None: ...


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum x over all training processes, in place, and return it.  With one process, x is unchanged."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x


def gather_over_processes(x: Tensor) -> Tensor:
    """Return the rows of x of all training processes (n, ...), one after another.  x has the same shape on each."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        rows = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, x.contiguous())
        return torch.cat(rows)
    return x
