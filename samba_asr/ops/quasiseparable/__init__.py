"""The operations after the two scans of a quasiseparable mixer: shift, skip, gate and norm.

    v_t = forward_{t-1} + backward_{t+1} + skip_t x_t    (arXiv 2407.09941, eq. 10: strictly before, strictly after, itself)
    y_t = RMSNorm(v_t silu(z_t))                         (arXiv 2405.21060, section 7.1)

torch.py    the definition, in torch's own operations
triton.py   one launch forward, one backward
"""

from __future__ import annotations

from torch import Tensor

from samba_asr.errors import UserError
from samba_asr.ops.blocks import Blocks
from samba_asr.ops.device import choose_fused as choose
from samba_asr.ops.device import require_triton
from samba_asr.ops.quasiseparable.torch import join_and_gate_torch


def join_and_gate(
    forward: Tensor,
    backward: Tensor,
    last: Tensor,
    x: Tensor,
    skip: Tensor,
    z: Tensor,
    weight: Tensor,
    blocks: Blocks,
    *,
    eps: float = 1e-5,
    backend: str = "auto",
) -> Tensor:
    """Add the forward scan, the backward scan and the skip of x, gate by z, and normalize.

    After the valid steps the inputs must be finite, as the scans leave them.  The caller (Hydra) keeps the streaming
    contract.  Shapes: b batch, t time, d channels, h heads.

    Args:
        forward, backward: (b, t, d) of `ssd_both_ways`.  The first step of `backward` in a block is not used.
        last: (b, 1, d) output of the forward scan before the first step.
        x: (b, t, d) input of the scans; skip (b, t, h) its weight at each step, per head.
        z: (b, t, d) the gate.
        weight: (d,) of the norm; eps is added to the mean square.
        backend: "auto", "torch" or "triton".

    Returns (b, t, d) in the dtype of x, unspecified after the valid steps (`blocks.ragged`).
    """
    if backend == "auto":
        backend, _ = ("torch", "") if blocks.has_gaps else choose(x.device, x.dtype, x.shape[1])
    if backend == "triton":
        require_triton(x, "join_and_gate")
        from samba_asr.ops.quasiseparable.triton import join_and_gate_triton

        return join_and_gate_triton(forward, backward, last, x, skip, z, weight, blocks.ragged, blocks.sizes, eps)
    if backend != "torch":
        raise UserError(f"join_and_gate has no backend {backend!r}: use 'auto', 'torch' or 'triton'")
    return join_and_gate_torch(forward, backward, last, x, skip, z, weight, blocks, eps)


__all__ = ["choose", "join_and_gate"]
