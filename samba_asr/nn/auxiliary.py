"""Auxiliary losses of layers, besides the objective of the whole net.

A layer may need a loss of its own, such as one that balances experts.  It declares a named loss and adds to it in training.
The objective (samba_asr.training.objectives) adds that to its own loss, and the log shows it by name.

    self.balance = AuxiliaryLoss("balance", weight=0.01)  # in __init__
    ...
    if self.balance.wanted:  # in forward or step
        self.balance.add(value)  # (b,)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn


class AuxiliaryLoss(nn.Module):
    """A named loss of a layer, with a weight.  It has no parameters, so files of weights do not depend on it.

    Layers may share a name: their losses are added, each with its own weight.
    """

    def __init__(self, name: str, weight: float):
        super().__init__()
        self.name, self.weight = name, weight
        self.values: list[Tensor] | None = None  # since collecting began

    @property
    def wanted(self) -> bool:
        """Whether an objective is collecting losses.  Otherwise the layer need not compute them."""
        return self.values is not None

    def add(self, value: Tensor) -> None:
        """Add `value` (b,), the loss of each row summed over its valid steps, as objectives sum over tokens or frames."""
        if self.values is not None:
            self.values.append(value)

    def extra_repr(self) -> str:
        return f"{self.name!r}, weight={self.weight}"


def auxiliary_losses(net: nn.Module) -> list[AuxiliaryLoss]:
    """Return all auxiliary losses of `net`, in the order of its layers."""
    return [m for m in net.modules() if isinstance(m, AuxiliaryLoss)]


@contextlib.contextmanager
def collect(losses: list[AuxiliaryLoss]) -> Iterator[None]:
    """Let the layers add to `losses` within the block.

    The values are dropped at its end, also after an exception, because they hold the graph of a whole batch.
    """
    try:
        for loss in losses:
            loss.values = []
        yield
    finally:
        for loss in losses:
            loss.values = None
