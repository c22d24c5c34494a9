"""What comes behind the two scans of a quasiseparable mixer: shift, skip, gate and norm.

    v_t = forth_{t-1} + back_{t+1} + skip_t x_t          (arXiv 2407.09941, eq. 10: strictly before, strictly after, itself)
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
    forth: Tensor,
    back: Tensor,
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
    """Join the scans forth and back of x, gate them by z, and normalise.  Shapes: b batch, t time, d channels, h heads.

    Behind the valid steps the inputs must be finite, as the scans leave them; the law is kept by who calls this (Hydra).

    Args:
        forth, back: (b, t, d) of `ssd_both_ways`.  Of `back`, the first step of a block has nothing to be handed to.
        last: (b, 1, d) what `forth` was at the step before the first.
        x: (b, t, d) what was scanned; skip (b, t, h) its own weight at each step, one a head.
        z: (b, t, d) the gate.
        weight: (d,) of the norm; eps is added to the mean square.
        backend: "auto", "torch" or "triton".

    Returns (b, t, d) in the dtype of x, unspecified behind the valid steps (`blocks.ragged`).
    """
    if backend == "auto":
        backend, _ = choose(x.device, x.dtype, x.shape[1])
    if backend == "triton":
        require_triton(x, "join_and_gate")
        from samba_asr.ops.quasiseparable.triton import join_and_gate_triton

        return join_and_gate_triton(forth, back, last, x, skip, z, weight, blocks.ragged, blocks.sizes, eps)
    if backend != "torch":
        raise UserError(f"join_and_gate has no backend {backend!r}: use 'auto', 'torch' or 'triton'")
    return join_and_gate_torch(forth, back, last, x, skip, z, weight, blocks, eps)


__all__ = ["choose", "join_and_gate"]
