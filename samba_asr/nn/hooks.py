"""Hooks around a step of the optimizer, for layers that learn by other means than the gradient, such as codebooks that are
moving averages.

The trainer calls them for every module that has them.  A step is a number of batches, then one move of the weights:

    before_step()   before the first batch; again where the step begins anew (out of memory)
    after_step()    after the weights have moved; not called for a step that is not taken

So a layer counts what it sees in `forward` (in training only) into a buffer, clears the buffer in `before_step`, and moves its
codes in `after_step`.  A batch whose loss is not finite was seen too: ignore values that are not finite.  With several
processes each sees its own batches: `sum_over_processes` the counts first, and every process moves its codes alike.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch.distributed as dist
from torch import Tensor


@runtime_checkable
class BeforeStep(Protocol):
    def before_step(self) -> None: ...


@runtime_checkable
class AfterStep(Protocol):
    def after_step(self) -> None: ...


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum x over all processes of training, in place; with one process, x as it is."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x
