"""Two SSD scans, forward in time and backward inside blocks, for bidirectional mixers.

Shapes: b batch, t time, h heads, p channels of a head, g groups, n state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.ops.blocks import Blocks, flip
from samba_asr.ops.ssd.dispatch import BACKENDS, choose, ssd


def ssd_both_ways(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    blocks: Blocks,
    *,
    initial_state: Tensor,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `ssd` on x forward and, inside each block, backward.

    Args:
        x: (b, t, h, p) for both directions, or (b, t, 2, h, p): forward, backward.
        dt: (b, t, 2, h) step sizes; forward, backward.
        A: (h,) for both directions, or, with x of five dimensions, (2, h): forward, backward.
        B, C: (b, t, 2, g, n) input and output maps; forward, backward.
        blocks: of (b, t); `blocks.ragged` are the lengths.
        initial_state: (b, h, p, n) of the forward scan.  The backward scan starts each block with a zero state.

    Returns y of both directions, (b, t, h, p) each in forward order of time, and the state of the forward scan after
    `blocks.kept` steps, (b, h, p, n).  Padding is handled as by `ssd`.
    """
    if backend == "auto":
        backend, _ = ("chunk", "") if blocks.has_gaps else choose(x.device, x.dtype, x.shape[1])
    if blocks.keep is not None:
        forward, backward, _ = ssd_both_ways(
            x, dt, A, B, C, blocks._replace(keep=None), initial_state=initial_state, backend=backend
        )
        u, decay = (x, A) if A.dim() == 1 else (x[:, :, 0], A[0])
        where = {"initial_state": initial_state, "lengths": blocks.keep, "backend": backend}
        return forward, backward, ssd(u, dt[:, :, 0], decay, B[:, :, 0], C[:, :, 0], **where)[1]
    if backend == "triton":
        given = {"initial_state": initial_state, "lengths": blocks.ragged, "sizes": blocks.sizes}
        y, state = BACKENDS["triton"](x, dt, A, B, C, **given)
        return y[0], y[1], state

    both = lambda v: torch.cat([v[:, :, 0], flip(v[:, :, 1], blocks)])  # noqa: E731
    ragged, start = blocks.ragged, blocks.start
    if A.dim() == 2:
        forward, state = ssd(
            x[:, :, 0],
            dt[:, :, 0],
            A[0],
            B[:, :, 0],
            C[:, :, 0],
            initial_state=initial_state,
            lengths=ragged,
            backend=backend,
        )
        x, dt, B, C = (flip(v[:, :, 1], blocks) for v in (x, dt, B, C))
        backward, _ = ssd(x, dt, A[1], B, C, lengths=ragged, reset=start, backend=backend)
        return forward, flip(backward, blocks), state
    # In one call: rows 0..b-1 forward, rows b..2b-1 backward in reversed time, with a reset at each block.
    y, state = ssd(
        torch.cat([x, flip(x, blocks)]),
        both(dt),
        A,
        both(B),
        both(C),
        initial_state=torch.cat([initial_state, torch.zeros_like(initial_state)]),
        lengths=None if ragged is None else torch.cat([ragged, ragged]),
        reset=None if start is None else torch.cat([torch.zeros_like(start), start]),
        backend=backend,
    )
    b = x.shape[0]  # slices, because `chunk` would fix the batch of an exported graph
    return y[:b], flip(y[b:], blocks), state[:b]
