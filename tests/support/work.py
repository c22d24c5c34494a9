"""Batches of noise for steps of the trainer."""

from __future__ import annotations

import torch

from samba_asr.data.dataset import collate
from samba_asr.training.distributed import Ranks
from samba_asr.training.step import SeededBatch

CPU = Ranks(torch.device("cpu"))


def make_work(b: int = 4, seed: int = 1, name: str = "u") -> SeededBatch:
    g = torch.Generator().manual_seed(seed)
    samples = [torch.randn(9600 + 640 * i, generator=g).numpy() * 0.1 for i in range(b)]
    return SeededBatch(collate(samples, [[3, 4, 3]] * b, [f"{name}{i}" for i in range(b)]), seed)
