"""The partition function of CTC-CRF in matrix products, forward and backward (shapes: `ops/crf`).

The sums over paths are kept as probabilities.  After each frame they are divided by their sum, whose logarithms add up to
log Z.  A state is a row's last two units (i, j), laid out as (j, b, i), so one frame is v matrix products of (b, v) by (v, v).
The gradient of log Z is the posterior of each unit: forward sums times backward sums.  Each may have any scale, because the
posteriors of a frame sum to one.

Probabilities below 1e-38 of a frame's most likely state are lost; no gradient would show them.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-30  # prevents a division by zero at a frame whose scores are all impossible


class _LogPartition(torch.autograd.Function):
    """The loops over frames have few operations, without views: on a GPU each costs its launch."""

    @staticmethod
    def forward(ctx, log_probs: Tensor, lengths: Tensor, trigram: Tensor) -> Tensor:
        b, t, v = log_probs.shape
        follow, double, end = _tables(trigram)
        y = _emissions(log_probs, lengths)  # (t, 2, v, b, 1)
        states = y.new_empty(t + 1, 2, v, b, v)  # kept for the backward; ending in a blank, or in j itself
        states[0] = 0.0
        states[0, 0, 0, :, 0] = 1.0
        totals = y.new_ones(t + 1, b)
        begin = y.new_empty(v, b, v)
        diagonal, turned = begin.diagonal(dim1=0, dim2=2).t(), begin.transpose(0, 2)  # (j, b), (k, b, j)
        emissions, both, total = y.unbind(), states.unbind(), totals.unbind()
        scales, free, held = totals[:, :, None].unbind(), states[:, 0].unbind(), states[:, 1].unbind()
        for n in range(t):
            ended = torch.add(free[n], held[n], out=free[n + 1])
            torch.bmm(ended, follow, out=begin)  # (j, b, k)
            torch.sum(free[n] * double, -1, out=diagonal)  # equal neighbors need a blank between them
            torch.add(held[n], turned, out=held[n + 1])
            both[n + 1].mul_(emissions[n] / scales[n])  # each frame is divided by the sum of the one before
            torch.sum(both[n + 1], (0, 1, 3), out=total[n + 1]).clamp_min_(TINY)  # (b,)
        ctx.save_for_backward(y, lengths, states, follow, double, end)
        ctx.dtype = log_probs.dtype
        return totals[:t].log().sum(0) + (both[t].sum(0) * end[:, None]).sum((0, 2)).log()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        y, lengths, states, follow, double, end = ctx.saved_tensors
        t, _, v, b, _ = y.shape
        back = follow.transpose(1, 2).contiguous()  # (j, k, i)
        found = y.new_empty(t, 2, v, b)  # posteriors of each unit, and of a blank after it
        # backward sums: over all continuations of (i, j), with a blank after it and without
        after = end[:, None].expand(2, v, b, v).contiguous()
        of_blank, of_unit = after.unbind()
        begin = y.new_empty(v, b, v)
        diagonal = begin.diagonal(dim1=0, dim2=2).t()  # (j, b)
        columns = diagonal.unsqueeze(-1)
        scaled = torch.empty_like(after)
        ended, on, turned = scaled[0], scaled[1], scaled[1].transpose(0, 2)  # (j, b, i), (k, b, j), (j, b, k)
        emissions, both, into = y.unbind(), states.unbind(), found.unbind()
        for n in reversed(range(t)):
            torch.sum(both[n + 1] * after, -1, out=into[n])
            peak = after.amax((0, 1, 3), keepdim=True).clamp_min_(TINY)  # (1, 1, b, 1)
            torch.mul(after, emissions[n] / peak, out=scaled)
            begin.copy_(turned)
            doubled = columns * double
            diagonal.zero_()
            either = torch.baddbmm(ended, begin, back)
            torch.add(either, doubled, out=of_blank)
            torch.add(either, on, out=of_unit)
        posteriors = found[:, 1]  # (t, v, b)
        posteriors[:, 0] = found[:, 0].sum(1)
        posteriors = posteriors / posteriors.sum(1, keepdim=True).clamp_min(TINY)
        gradient = posteriors.permute(2, 0, 1) * upstream[:, None, None]  # (b, t, v)
        padding = torch.arange(t, device=y.device) >= lengths[:, None]
        return gradient.masked_fill_(padding[..., None], 0.0).to(ctx.dtype), None, None


def log_partition_matmul(log_probs: Tensor, lengths: Tensor, trigram: Tensor) -> Tensor:
    """See `samba_asr.ops.crf.log_partition` for the contract."""
    wide = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
    with torch.autocast(log_probs.device.type, enabled=False):
        return _LogPartition.apply(wide, lengths, trigram.to(wide))


def _tables(trigram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return p(k | i j) as (j, i, k) without k = 0, p(j | i j) as (j, 1, i), and p(end | i j) as (j, i)."""
    p = trigram.exp().transpose(0, 1).contiguous()  # (j, i, k)
    end = p[..., 0].contiguous()
    p[..., 0] = 0.0
    return p, p.diagonal(dim1=0, dim2=2).t().contiguous()[:, None], end


def _emissions(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Return probabilities (t, 2, v, b, 1) of a blank after each unit, and of the unit.

    After a row's end the blank has probability 1, which changes no sum.
    """
    t = log_probs.shape[1]
    padding = torch.arange(t, device=log_probs.device) >= lengths[:, None]  # (b, t)
    y = log_probs.masked_fill(padding[..., None], 0.0).exp()
    y[..., 1:].masked_fill_(padding[..., None], 0.0)
    y = y.permute(1, 2, 0)  # (t, v, b)
    return torch.stack([y[:, :1].expand_as(y), y], 1).unsqueeze(-1)
