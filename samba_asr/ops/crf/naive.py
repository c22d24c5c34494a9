"""The partition function of CTC-CRF as a recursion over the frames, in logarithms: the definition (shapes: `ops/crf`)."""

from __future__ import annotations

import torch
from torch import Tensor

IMPOSSIBLE = -1e30  # nats; minus infinity would give a gradient of NaN


def log_partition_naive(log_probs: Tensor, lengths: Tensor, trigram: Tensor) -> Tensor:
    """See `samba_asr.ops.crf.log_partition` for the contract."""
    b, t, v = log_probs.shape
    padding = torch.arange(t, device=log_probs.device) >= lengths[:, None]
    log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32)).masked_fill(padding[..., None], 0.0)
    trigram = trigram.to(log_probs)
    # log of the sum over all paths whose last two units are (i, j), and that end in a blank (free) or in j itself (held)
    free = log_probs.new_full((b, v, v), IMPOSSIBLE)  # (b, i, j)
    free[:, 0, 0] = 0.0
    held = torch.full_like(free, IMPOSSIBLE)
    same = torch.eye(v, dtype=torch.bool, device=free.device)
    for n in range(t):
        y = log_probs[:, n]  # (b, v)
        ended = torch.logaddexp(free, held)
        # j -> k: equal neighbors need a blank between them
        begin = torch.where(same, free[..., None], ended[..., None]) + trigram  # (b, i, j, k)
        new = begin.logsumexp(1) + y[:, None, :]  # (b, j, k)
        new[:, :, 0] = IMPOSSIBLE  # 0 is not a unit but the end of a text
        new = torch.logaddexp(new, held + y[:, None, :])
        active = (n < lengths)[:, None, None]
        free, held = torch.where(active, ended + y[:, :1, None], free), torch.where(active, new, held)
    return (torch.logaddexp(free, held) + trigram[:, :, 0]).flatten(1).logsumexp(1)
