"""Distributed training: one process or many (torchrun), with the few collectives that training needs.

Gradients are summed in `samba_asr.training.buckets`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from samba_asr.device import choose_device


@dataclass(frozen=True)
class Ranks:
    """This process in its group.  With `size` 1 every method is trivial."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the element-wise sum over ranks, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy the first rank's values to every rank, in place."""
        if self.size > 1:
            for x in tensors:
                dist.broadcast(x, src=0)

    def gather(self, value) -> list:
        """Return every rank's picklable `value`, in the order of ranks."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        if self.size > 1:
            self.sum([0.0])


def start(device: str) -> Ranks:
    """Join the group given by torchrun in RANK, LOCAL_RANK and WORLD_SIZE, if there is one; nccl on CUDA, else gloo.

    device: auto | cpu | cuda | cuda:N.  With several ranks, `cuda` and `auto` mean GPU number LOCAL_RANK.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        device = (
            f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # not by way of the first: each rank would keep memory there
        )
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        return Ranks(chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Ranks(chosen, dist.get_rank(), dist.get_world_size())


def stop(ranks: Ranks) -> None:
    """Leave the group."""
    if ranks.size > 1 and dist.is_initialized():
        dist.destroy_process_group()
