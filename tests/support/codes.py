"""The smallest example of a codebook, with inputs by a formula."""

from __future__ import annotations

import math

import torch

from samba_asr.nn.codebook import Codebook


def wave(*shape, step, start=0.0):
    """sin(step i + start) over the flat index i."""
    return torch.sin(step * torch.arange(math.prod(shape), dtype=torch.float64) + start).view(shape)


def published():
    """The smallest example: 9 steps, 4 codes of 3 values, values of 2 channels."""
    book = Codebook(4, 3).double()
    book.sums.copy_(wave(4, 3, step=1.3, start=0.2))
    return book, wave(9, 3, step=0.9), wave(9, 3, step=0.37, start=0.5), wave(9, 2, step=0.53, start=1.0)
