"""`join_and_gate` in torch operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.ops.blocks import Blocks


def join_and_gate_torch(
    forward: Tensor,
    backward: Tensor,
    last: Tensor,
    x: Tensor,
    skip: Tensor,
    z: Tensor,
    weight: Tensor,
    blocks: Blocks,
    eps: float,
) -> Tensor:
    """Definition of `samba_asr.ops.quasiseparable.join_and_gate`."""
    before = torch.cat([last.to(forward.dtype), forward], dim=1)[:, : forward.shape[1]]
    after = F.pad(backward, (0, 0, 0, 1))[:, 1:]
    if blocks.start is not None:
        after = after.masked_fill(F.pad(blocks.start, (0, 1))[:, 1:, None], 0)
    itself = (x.unflatten(-1, (skip.shape[-1], -1)) * skip[..., None]).flatten(-2)
    return F.rms_norm((before + after + itself) * F.silu(z), weight.shape, weight.to(x.dtype), eps)
