"""Two selective scans, forward in time and backward inside blocks, each with its own inputs and parameters.

Shapes: b batch, t time, d channels, n states per channel; 2 directions: forward, backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.ops.blocks import Blocks, flip
from samba_asr.ops.selective_scan.dispatch import BACKENDS, choose, selective_scan


def selective_scan_both_ways(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    blocks: Blocks,
    *,
    D: Tensor,
    z: Tensor,
    dt_bias: Tensor,
    initial_state: Tensor,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run `selective_scan` forward on x[:, :, 0] and, inside each block, backward on x[:, :, 1].

    Args:
        x, dt, z: (b, t, 2, d), both in forward order of time; B, C (b, t, 2, n); A (2, d, n); D, dt_bias (2, d).
        blocks: of (b, t); `blocks.ragged` are the lengths.
        initial_state: (b, d, n) of the forward scan.  The backward scan starts each block with a zero state.

    Returns y (b, t, 2, d) in forward order, and the state of the forward scan after the last valid step, (b, d, n).
    """
    if backend == "auto":
        backend, _ = choose(x.device, x.dtype, x.shape[1])
    if backend == "triton":
        where = {"initial_state": initial_state, "lengths": blocks.ragged, "sizes": blocks.sizes}
        return BACKENDS["triton"](x, dt, A, B, C, D=D, z=z, dt_bias=dt_bias, **where)
    (x, x_back), (dt, dt_back), (B, B_back), (C, C_back), (z, z_back) = (v.unbind(2) for v in (x, dt, B, C, z))
    forward, state = selective_scan(
        x,
        dt,
        A[0],
        B,
        C,
        D=D[0],
        z=z,
        dt_bias=dt_bias[0],
        initial_state=initial_state,
        lengths=blocks.ragged,
        backend=backend,
    )
    backward, _ = selective_scan(
        flip(x_back, blocks),
        flip(dt_back, blocks),
        A[1],
        flip(B_back, blocks),
        flip(C_back, blocks),
        D=D[1],
        z=flip(z_back, blocks),
        dt_bias=dt_bias[1],
        lengths=blocks.ragged,
        reset=blocks.start,
        backend=backend,
    )
    return torch.stack([forward, flip(backward, blocks)], 2), state
