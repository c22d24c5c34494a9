"""Training of the graph network on the lattices of a validation set: minutes of speech, seconds of one core.

It learns on lattices of speech that the recognizer was not trained on: those of its own training speech have no errors.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.models.graph import ArcGraph, GraphMamba

EPOCHS, BATCH, RATE, DECAY = 8, 4, 2e-3, 0.05
OTHERS = 0.3
"""Weight of the words that are not in the best text."""


class Example(NamedTuple):
    """A lattice with its truth."""

    graph: ArcGraph
    right: Tensor  # (a,) float: 1 if the word was said there, 0 if not, -1 if nobody knows
    arcs: Tensor  # (w,) int64: of the words of the best text that have one
    said: Tensor  # (w,) float: whether these are right


def train(
    examples: Sequence[Example], *, epochs: int = EPOCHS, seed: int = 0, local: int = 2, mamba: int = 1
) -> GraphMamba:
    """Train a network with its own random numbers; the caller's generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = torch.cat([example.graph.features for example in examples])
        network = GraphMamba(features.shape[1], local=local, mamba=mamba)
        network.mean.copy_(features.mean(dim=0))
        network.deviation.copy_(features.std(dim=0, correction=0) + 1e-3)
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
        order, shuffled = list(range(len(examples))), random.Random(seed)
        network.train()
        for epoch in range(epochs):
            shuffled.shuffle(order)
            for group in optimizer.param_groups:
                group["lr"] = RATE * (0.02 + 0.49 * (1 + math.cos(math.pi * epoch / epochs)))
            for at in range(0, len(order), BATCH):
                optimizer.zero_grad()
                torch.stack([loss(network, examples[n]) for n in order[at : at + BATCH]]).sum().backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
    return network.eval()


def loss(network: GraphMamba, example: Example) -> Tensor:
    """Cross-entropy of the best text's words, and, with weight OTHERS, of all words of the lattice."""
    logits = network(example.graph)
    known = example.right >= 0
    total = logits.sum() * 0  # there may be neither
    if known.any():
        total = total + OTHERS * F.binary_cross_entropy_with_logits(logits[known], example.right[known])
    if len(example.arcs):
        total = total + F.binary_cross_entropy_with_logits(logits[example.arcs], example.said)
    return total
