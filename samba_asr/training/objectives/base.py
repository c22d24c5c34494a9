"""The interface of objectives: a net and its training losses.

Objectives are registered by name (`objectives`), like mixers.  Each is a module with its net and the parts that only training
needs: heads that no model folder contains, codebooks, statistics of the texts.  The net does not depend on them.
Shapes: b utterances (or lines of text), s samples, u tokens.
"""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from samba_asr.nn.auxiliary import auxiliary_losses, collect
from samba_asr.registry import Registry

objectives = Registry("objective")


class Outcome(NamedTuple):
    """Losses of the utterances of a batch.

    Training minimizes the sum of `loss` over the sum of `units`, of all batches of a step.
    """

    loss: Tensor  # (b,) summed over the units of each utterance
    parts: dict[str, Tensor]  # (b,) each; the components of `loss`, without weights, for the log
    units: Tensor  # (b,) number of predictions for each utterance: tokens, frames


class BatchFields(Protocol):
    """The fields of `samba_asr.data.dataset.Batch` that objectives read."""

    audio: Tensor  # (b, s)
    lengths: Tensor  # (b,) samples
    tokens: Tensor  # (b, u)
    token_lengths: Tensor  # (b,)
    texts: list[str] | None
    frames: Tensor | None  # (b,) encoder frames as recorded, only without texts
    teacher: Tensor | None  # (b, t, w) frames of a teacher
    teacher_lengths: Tensor | None  # (b,)
    known_lengths: Tensor | None  # `lengths` and `token_lengths` on the CPU, for a batch that was moved to a device
    known_token_lengths: Tensor | None


class Objective(nn.Module):
    """A net and its losses.  A subclass defines `compute` and lists its `parts`."""

    parts: tuple[str, ...] = ()

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net  # first: optimizers number parameters in this order
        self._auxiliary = auxiliary_losses(net)

    @property
    def part_names(self) -> tuple[str, ...]:
        """All names that `Outcome.parts` may have, the same on every process and for every batch."""
        added = dict.fromkeys(loss.name for loss in self._auxiliary)
        if taken := added.keys() & {"loss", *self.parts}:
            raise ValueError(f"auxiliary loss {taken.pop()!r}: {type(self).__name__} has a part of that name")
        return *self.parts, *added

    def draw_block(self, rng: random.Random) -> int:
        """Draw the encoder's block size for one training step; -1: the whole utterance."""
        return -1

    def net_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of the net as they are used after training, from the state dict of the objective."""
        return {name.removeprefix("net."): x for name, x in state.items() if name.startswith("net.")}

    def compute(self, batch: BatchFields, *, block: int, augment: bool, generator: torch.Generator | None) -> Outcome:
        """Compute the losses of a batch, without the auxiliary losses of the net's layers."""
        raise NotImplementedError

    def forward(
        self, batch: BatchFields, *, block: int = -1, augment: bool = False, generator: torch.Generator | None = None
    ) -> Outcome:
        """Compute the losses of a batch, with the auxiliary losses of the net's layers.

        block: encoder frames per block; -1: whole utterances.  augment: augment the features, with draws from `generator`.
        """
        with collect(self._auxiliary):
            outcome = self.compute(batch, block=block, augment=augment, generator=generator)
            loss, parts = outcome.loss, dict(outcome.parts)
            if undeclared := parts.keys() - set(self.parts):
                raise ValueError(f"{type(self).__name__}.parts must name {', '.join(sorted(undeclared))}")
            for auxiliary in self._auxiliary:
                for value in auxiliary.values or ():
                    value = mean_of_views(value.to(loss.dtype), len(loss))
                    loss = loss + auxiliary.weight * value
                    known = parts.get(auxiliary.name)
                    parts[auxiliary.name] = value if known is None else known + value
        return Outcome(loss, parts, outcome.units)


def mean_of_views(x: Tensor, b: int) -> Tensor:
    """Return (b,) means of x (n b,): n views of b utterances, view by view."""
    return x if len(x) == b else x.view(-1, b).mean(0)


def draw_block(blocks: tuple[int, ...], full_block: float, rng: random.Random) -> int:
    """Draw one of `blocks`, or -1, the whole utterance, with probability `full_block` or if `blocks` is empty."""
    if not blocks or rng.random() < full_block:
        return -1
    return rng.choice(blocks)
