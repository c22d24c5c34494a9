"""A codebook that follows the mean of the vectors that each code stands for, by moving averages, not by gradients.

The update is that of VQ-VAE (A. van den Oord et al., arXiv 1711.00937, appendix A.1): moving averages of counts and sums.  The
trainer calls it after the optimizer's step (samba_asr.nn.hooks), so a batch is always quantized by the codes from before it.
Codes that nothing uses are replaced by vectors of the step, with count and sum, so the next update does not bring them back.
Shapes: b batch, t time, s codes, r values of a code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.nn.auxiliary import AuxiliaryLoss
from samba_asr.nn.hooks import gather_over_processes, sum_over_processes
from samba_asr.streaming import valid_mask

DECAY = 0.99  # of the moving averages, a step (transformer-vq/transformer_vq, scripts/lm_enwik8.sh)
COMMITMENT = 1e-4  # weight of the loss that draws vectors to their codes, there too
LEAST = 0.01  # smallest divisor of a sum


class Codebook(nn.Module):
    """s codes of r values.  It is called with vectors k (b, t, r) and returns one-hot codes (b, t, s)."""

    sums: Tensor  # (s, r) moving average of the sum of the vectors of each code
    counts: Tensor  # (s,) and of their number, a step
    seen_sums: Tensor  # (s, r) of this step
    seen_counts: Tensor  # (s,)
    candidates: (
        Tensor  # (s, 1 + r) vectors of this step for unused codes: a random priority, -1 for none, then the vector
    )

    def __init__(self, codes: int, r: int):
        super().__init__()
        self.register_buffer("sums", torch.randn(codes, r) * r**-0.25)  # as long as normalized keys
        self.register_buffer("counts", torch.ones(codes))
        for name, shape in (("seen_sums", (codes, r)), ("seen_counts", (codes,)), ("candidates", (codes, 1 + r))):
            self.register_buffer(name, torch.zeros(shape), persistent=False)
        self.commitment = AuxiliaryLoss("commitment", COMMITMENT)
        self.before_step()

    @property
    def codes(self) -> Tensor:
        """The codes (s, r)."""
        return self.sums / self.counts.clamp(min=LEAST)[:, None]

    def forward(self, k: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the nearest code of each vector of k (b, t, r) as a one-hot vector (b, t, s); of equal ones the first.

        Its gradient is that of softmax(-|k - c|^2) (straight-through).  In training it counts the vectors before `lengths` (b,).
        """
        codes = self.codes.to(k.dtype)
        distance = codes.square().sum(-1) - 2 * k @ codes.T  # (b, t, s), without |k|^2
        code = distance.argmin(-1)
        hot = F.one_hot(code, len(codes)).to(k.dtype)
        if self.training:
            valid = _valid(k, lengths)
            self._count(k.detach(), hot, valid)
            if self.commitment.wanted:
                apart = (k - codes[code]).square().sum(-1)  # (b, t)
                self.commitment.add(apart.masked_fill(~valid, 0).sum(1))
        if torch.is_grad_enabled():
            soft = (-distance).softmax(-1)  # |k|^2 is the same for all codes
            hot = hot + (soft - soft.detach())
        return hot

    @torch.no_grad()
    def _count(self, k: Tensor, hot: Tensor, valid: Tensor) -> None:
        k, hot = k[valid].to(self.sums.dtype), hot[valid].to(self.sums.dtype)  # (n, r), (n, s)
        self.seen_counts += hot.sum(0)
        self.seen_sums += hot.T @ k
        # Random priorities make the choice independent of the order of batches and of the process that has each.
        priority = torch.rand(valid.shape).to(k.device)[valid]
        found = torch.cat([self.candidates, torch.cat([priority[:, None].to(k.dtype), k], 1)])
        self.candidates.copy_(found[found[:, 0].topk(len(hot.T)).indices])

    def before_step(self) -> None:
        """Forget what was seen."""
        self.seen_sums.zero_()
        self.seen_counts.zero_()
        self.candidates.fill_(-1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the codes to what all processes saw in this step, and replace codes that are hardly used."""
        seen = sum_over_processes(torch.cat([self.seen_sums, self.seen_counts[:, None]], 1))
        self.sums.lerp_(seen[:, :-1], 1 - DECAY)
        self.counts.lerp_(seen[:, -1], 1 - DECAY)
        found = gather_over_processes(self.candidates)  # (processes s, 1 + r)
        found = found[found[:, 0].argsort(descending=True, stable=True)]
        found = found[found[:, 0] >= 0, 1:]
        mean = self.counts.mean()
        dead = (self.counts < (mean / 2).clamp(max=1)).nonzero()[:, 0][: len(found)]  # less than one vector a step
        self.counts[dead] = mean
        self.sums[dead] = found[: len(dead)] * mean


def _valid(k: Tensor, lengths: Tensor | None) -> Tensor:
    """Return (b, t) bool: vectors that count.  A batch whose loss is not finite is left out only later, so NaN is no vector."""
    finite = k.detach().isfinite().all(-1)
    return finite if lengths is None else finite & valid_mask(lengths, k.shape[1])
