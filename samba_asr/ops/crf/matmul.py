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
    @staticmethod
    def forward(ctx, log_probs: Tensor, lengths: Tensor, trigram: Tensor) -> Tensor:
        b, t, v = log_probs.shape
        follow, double, end = _tables(trigram)
        y = _emissions(log_probs, lengths)  # (t, v, b, 1)
        states = y.new_empty(t + 1, 2, v, b, v)  # kept for the backward; ending in a blank, or in j itself
        states[0] = 0.0
        states[0, 0, 0, :, 0] = 1.0
        scale, total = y.new_zeros(b), y.new_ones(b)
        begin = y.new_empty(v, b, v)
        diagonal = begin.diagonal(dim1=0, dim2=2).t()  # (j, b)
        for n in range(t):
            free, held = states[n]
            ended = free + held
            torch.bmm(ended, follow, out=begin)  # (j, b, k)
            torch.sum(free * double, -1, out=diagonal)  # equal neighbors need a blank between them
            emitted = y[n] / total[:, None]  # each frame is divided by the sum of the one before
            torch.mul(ended, emitted[0], out=states[n + 1, 0])
            new = torch.add(held, begin.transpose(0, 2), out=states[n + 1, 1])
            new *= emitted
            scale += total.log()
            total = states[n + 1].sum((0, 1, 3)).clamp_min_(TINY)  # (b,)
        ctx.save_for_backward(y, lengths, states, follow, double, end)
        ctx.dtype = log_probs.dtype
        return scale + (states[t].sum(0) * end[:, None]).sum((0, 2)).log()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        y, lengths, states, follow, double, end = ctx.saved_tensors
        t, v, b, _ = y.shape
        back = follow.transpose(1, 2).contiguous()  # (j, k, i)
        posteriors = y.new_empty(t, v, b)
        # backward sums: over all continuations of (i, j), with a blank after it and without
        after = end[:, None].expand(2, v, b, v).contiguous()
        begin = y.new_empty(v, b, v)
        diagonal = begin.diagonal(dim1=0, dim2=2).t()  # (j, b)
        for n in reversed(range(t)):
            blank, unit = (states[n + 1] * after).sum(-1)  # (v, b)
            posteriors[n] = unit
            posteriors[n, 0] = blank.sum(0)
            emitted = y[n] / after.amax((0, 1, 3)).clamp_min_(TINY)[:, None]
            on = after[1] * emitted  # (k, b, j)
            begin.copy_(on.transpose(0, 2))  # (j, b, k)
            doubled = diagonal.unsqueeze(-1) * double
            diagonal.zero_()
            either = torch.baddbmm(after[0] * emitted[0], begin, back)
            torch.add(either, doubled, out=after[0])
            torch.add(either, on, out=after[1])
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
    """Return p(k | i j) as (j, i, k) without k = 0, p(j | i j) as (j, 1, i), and p(end | i j) as (j, i)."""
    p = trigram.exp().transpose(0, 1).contiguous()  # (j, i, k)
    end = p[..., 0].contiguous()
    p[..., 0] = 0.0
    return p, p.diagonal(dim1=0, dim2=2).t().contiguous()[:, None], end


def _emissions(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Return probabilities (t, v, b, 1).  After a row's end the blank has probability 1, which changes no sum."""
    t = log_probs.shape[1]
    padding = torch.arange(t, device=log_probs.device) >= lengths[:, None]  # (b, t)
    y = log_probs.masked_fill(padding[..., None], 0.0).exp()
    y[..., 1:].masked_fill_(padding[..., None], 0.0)
    return y.permute(1, 2, 0).unsqueeze(-1).contiguous()
