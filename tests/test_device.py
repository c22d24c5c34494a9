"""Copies to a device."""

from __future__ import annotations

import torch

from samba_asr.device import upload


class OnTheGpu:
    """Stands for a tensor of a GPU: torch refuses to pin one."""

    is_cuda = True

    def pin_memory(self):
        raise RuntimeError("cannot pin 'torch.cuda.LongTensor' only dense CPU tensors can be pinned")

    def to(self, device, non_blocking):
        return self


def test_what_is_on_the_gpu_stays_where_it_is():
    """Validation on a GPU lays its blocks by lengths that are there already; its first run on one died of it (2026-11-27)."""
    x = OnTheGpu()
    assert upload(x, torch.device("cuda")) is x


def test_a_copy_to_the_cpu_is_the_same_values():
    x = torch.arange(5)
    assert torch.equal(upload(x, torch.device("cpu")), x)
