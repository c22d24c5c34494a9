"""The partition function of CTC-CRF in matrix products, forward and backward (shapes: `ops/crf`).

The sums over paths are kept as probabilities, and divided by their sum after each frame, whose logarithms add up to log Z.
A state is a row's last two units (i, j), laid out as (j, b, i), so that one frame is v matrix products of (b, v) by (v, v).
The gradient of log Z are the posteriors of the units: forward sums times backward sums, each scaled as it likes, since a
frame's posteriors are known to sum to one.

Probabilities below 1e-38 of a frame's most likely state are lost, which no gradient would notice.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-30  # keeps a frame whose every score is impossible from dividing by zero


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_probs: Tensor, lengths: Tensor, trigram: Tensor) -> Tensor:
        b, t, v = log_probs.shape
        follow, double, end = _tables(trigram)
        y = _emissions(log_probs, lengths)  # (t, v, b, 1)
        free, held = y.new_zeros(2, v, b, v).unbind()
        free[0, :, 0] = 1.0
        frees, helds = y.new_empty(2, t, v, b, v).unbind()  # kept for the backward
        scale = y.new_zeros(b)
        for n in range(t):
            ended = free + held
            begin = torch.bmm(ended, follow)  # (j, b, k)
            # of equal neighbours, a blank must stand between
            begin.diagonal(dim1=0, dim2=2).copy_((free * double[:, None]).sum(-1).t())
            free = torch.mul(ended, y[n, 0], out=frees[n])
            held = torch.add(held, begin.transpose(0, 2), out=helds[n])
            held *= y[n]
            total = (free.sum((0, 2)) + held.sum((0, 2))).clamp_min(TINY)  # (b,)
            free /= total[:, None]
            held /= total[:, None]
            scale += total.log()
        ctx.save_for_backward(y, lengths, frees, helds, follow, double, end)
        ctx.dtype = log_probs.dtype
        return scale + ((free + held) * end[:, None]).sum((0, 2)).log()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        y, lengths, frees, helds, follow, double, end = ctx.saved_tensors
        t, v, b, _ = y.shape
        back = follow.transpose(1, 2).contiguous()  # (j, k, i)
        posteriors = y.new_zeros(t, v, b)
        # what is to come behind (i, j) with a blank, and without: sums over the ways on
        after_free = end[:, None].expand(v, b, v)
        after_held = after_free
        for n in reversed(range(t)):
            posteriors[n] = (helds[n] * after_held).sum(-1)
            posteriors[n, 0] = (frees[n] * after_free).sum((0, 2))
            on = after_held * y[n]  # (k, b, j)
            begin = on.transpose(0, 2).contiguous()  # (j, b, k)
            doubled = begin.diagonal(dim1=0, dim2=2).t().unsqueeze(-1) * double[:, None]  # (j, b, i)
            begin.diagonal(dim1=0, dim2=2).zero_()
            after_held = torch.baddbmm(after_free * y[n, 0], begin, back)
            after_free = after_held + doubled
            after_held = after_held + on
            largest = after_free.amax((0, 2)).clamp_min(TINY)[:, None]
            after_free, after_held = after_free / largest, after_held / largest
        posteriors /= posteriors.sum(1, keepdim=True).clamp_min(TINY)
        gradient = posteriors.permute(2, 0, 1) * upstream[:, None, None]  # (b, t, v)
        padding = torch.arange(t, device=y.device) >= lengths[:, None]
        return gradient.masked_fill_(padding[..., None], 0.0).to(ctx.dtype), None, None


def log_partition_matmul(log_probs: Tensor, lengths: Tensor, trigram: Tensor) -> Tensor:
    """See `samba_asr.ops.crf.log_partition` for the contract."""
    wide = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
    with torch.autocast(log_probs.device.type, enabled=False):
        return _LogPartition.apply(wide, lengths, trigram.to(wide))


def _tables(trigram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p(k | i j) as (j, i, k) without k = 0; p(j | i j) as (j, i); p(end | i j) as (j, i)."""
    p = trigram.exp().transpose(0, 1).contiguous()  # (j, i, k)
    end = p[..., 0].contiguous()
    p[..., 0] = 0.0
    return p, p.diagonal(dim1=0, dim2=2).t().contiguous(), end


def _emissions(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Probabilities (t, v, b, 1).  Behind a row's end a sure blank, which changes no sum."""
    t = log_probs.shape[1]
    padding = torch.arange(t, device=log_probs.device) >= lengths[:, None]  # (b, t)
    y = log_probs.masked_fill(padding[..., None], 0.0).exp()
    y[..., 1:].masked_fill_(padding[..., None], 0.0)
    return y.permute(1, 2, 0).unsqueeze(-1).contiguous()
