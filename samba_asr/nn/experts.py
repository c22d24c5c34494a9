"""Feed-forwards of which each position uses one: more weights at the same work.

The Switch transformer's layer (Fedus et al., arXiv 2101.03961, equation 2), without its capacity: every position is served,
whatever else is in the batch, so a step gives what the whole text gives.

    p = softmax(W norm(x)),  e = argmax p,  y = p_e FFN_e(x)

Two losses of training keep the router useful: `balance`, so that all experts are used (equations 4 to 6), and `router_z`, so
that its logits stay small (Zoph et al., arXiv 2202.08906, equation 5).
Shapes: b rows, t positions, n valid positions of all rows, d channels, e experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from samba_asr.nn.auxiliary import AuxiliaryLoss
from samba_asr.nn.linear import FeedForward, Linear
from samba_asr.streaming import valid_mask

Z_WEIGHT = 1e-3  # of the loss of large logits, as in ST-MoE


class Routing(NamedTuple):
    """The experts of some positions."""

    logits: Tensor  # (n, e), float32 at least
    probs: Tensor  # (n, e)
    chosen: Tensor  # (n,), of equal probabilities the first


def route(logits: Tensor) -> Routing:
    """Choose the expert of each position from logits (n, e)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    probs = logits.softmax(-1)
    return Routing(logits, probs, probs.argmax(-1))


def balance(routing: Routing) -> Tensor:
    """Return e sum_i f_i P_i, a scalar: f_i is the share of positions sent to expert i, P_i its mean probability.

    It is 1 where both are uniform.  The gradient flows through P alone.
    """
    experts = routing.probs.shape[1]
    share = torch.bincount(routing.chosen, minlength=experts) / max(len(routing.chosen), 1)
    return experts * (share * routing.probs.mean(0)).sum()


class Experts(nn.Module):
    """Feed-forwards, and the router that gives each position one of them.

    On a GPU a step waits for the router, because the number of positions of an expert is known to the device alone.
    """

    def __init__(self, d: int, experts: int, expand: int, dropout: float, balance: float):
        """balance: weight of the balance loss."""
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.router = Linear(d, experts, bias=False)
        nn.init.normal_(self.router.weight, std=0.1 * d**-0.5)  # nearly uniform at first
        self.experts = cast(
            "Sequence[FeedForward]", nn.ModuleList(FeedForward(d, expand, dropout) for _ in range(experts))
        )
        self.balance, self.router_z = AuxiliaryLoss("balance", balance), AuxiliaryLoss("router_z", Z_WEIGHT)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return (b, t, d) of x (b, t, d); zeros after `lengths` (b,), where nothing is routed."""
        valid = valid_mask(lengths, x.shape[1])
        flat = x[valid]  # (n, d)
        routing = route(self.router(self.norm(flat)))
        if self.balance.wanted:
            self._add_losses(routing, lengths)
        y = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            index = (routing.chosen == i).nonzero()[:, 0]
            if len(index):
                weight = routing.probs[index, i, None]
                y = y.index_add(0, index, (weight * expert(flat[index])).to(y.dtype))
        return torch.zeros_like(x).masked_scatter(valid[..., None], y)

    def _add_losses(self, routing: Routing, lengths: Tensor) -> None:
        """Add the losses of each row: its number of positions times the batch's balance; the sum of its positions' z."""
        self.balance.add(balance(routing) * lengths)
        row = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
        z = routing.logits.logsumexp(-1).square()
        self.router_z.add(z.new_zeros(len(lengths)).index_add(0, row, z))
