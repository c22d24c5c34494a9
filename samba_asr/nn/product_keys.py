"""A memory of n^2 values that each position reads at k of them (Lample et al., arXiv 1907.05242).

A value's key is a pair of half keys, and its score the sum of theirs.  So the best k of all n^2 are among the sums of the best k
of either half (section 3.1): 2 n products in place of n^2.
The paper normalizes queries over the batch.  Here each is normalized by itself, so a step gives what the whole text gives.
Shapes: b rows, t positions, m positions of all rows, d channels, h heads, n half keys, r channels of a half key, k values read.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.nn.linear import Linear
from samba_asr.streaming import valid_mask

HEADS, READ, KEY = 2, 16, 64  # h, k, r
RATE = 3.0
"""Values are stored divided by it.  Adam moves each weight by the learning rate, so the values move three times as fast: each is
read rarely, and the paper, too, gives them a larger rate."""


class Found(NamedTuple):
    """The best values of each query, best first."""

    scores: Tensor  # (..., k)
    index: Tensor  # (..., k), of n^2: n times the first half's plus the second's


def search(query: Tensor, first: Tensor, second: Tensor, k: int) -> Found:
    """Return the k best of n^2 keys for queries (..., 2 r); first, second (n, r): the half keys."""
    n, r = first.shape
    one, two = ((q @ keys.t()).topk(k) for q, keys in zip(query.split(r, -1), (first, second), strict=True))
    sums = (one.values[..., :, None] + two.values[..., None, :]).flatten(-2)  # (..., k k)
    best = sums.topk(k)
    index = one.indices.gather(-1, best.indices // k) * n + two.indices.gather(-1, best.indices % k)
    return Found(best.values, index)


def read(found: Found, values: Tensor) -> Tensor:
    """Return (m, d): the values (n^2, d) of `found` (m, k), weighted by the softmax of their scores."""
    weights = found.scores.softmax(-1).to(values.dtype)
    return F.embedding_bag(found.index, values, per_sample_weights=weights, mode="sum")


class ProductKeyMemory(nn.Module):
    """The memory, and an output gate of 0 at first, so that a model begins as the one without it."""

    def __init__(self, d: int, keys: int):
        """keys: n, half keys; there are n^2 values."""
        super().__init__()
        self.read_count = min(READ, keys)
        self.query = Linear(d, HEADS * 2 * KEY)
        self.norm = nn.LayerNorm(KEY)
        self.keys = nn.Parameter(torch.randn(HEADS, 2, keys, KEY) * KEY**-0.5)
        self.values = nn.Parameter(torch.randn(keys * keys, d) * d**-0.5 / RATE)
        self.values._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]
        self.gate = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return (b, t, d) of x (b, t, d); zeros after `lengths` (b,), where nothing is read."""
        valid = valid_mask(lengths, x.shape[1])
        query = self.norm(self.query(x[valid]).view(-1, HEADS, 2, KEY)).flatten(2)  # (m, h, 2 r)
        y = query.new_zeros(len(query), 1)
        for head in range(HEADS):
            first, second = self.keys[head]
            y = y + read(search(query[:, head], first, second, self.read_count), self.values)
        y = RATE * self.gate * y
        return torch.zeros_like(x).masked_scatter(valid[..., None], y.to(x.dtype))
