"""Two SSD scans, on through time and back inside blocks: what bidirectional mixers are made of.

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
    """x (b, t, h, p) scanned forth and, inside each block, back, with A (h,) for both ways; or with an x (b, t, 2, h, p) and an
    A (2, h) of each way.

    Args:
        dt: (b, t, 2, h) step sizes; forth, back.
        B, C: (b, t, 2, g, n) input and output maps; forth, back.
        blocks: laid over (b, t); `blocks.ragged` are the lengths.
        initial_state: (b, h, p, n) of the way forth; the way back begins each block with nothing.

    Returns y forth and y back, (b, t, h, p) in common time, and the state of the way forth after the last valid step (of
    `blocks.kept`), (b, h, p, n).  Behind the lengths, what `ssd` says.
    """
    if backend == "auto":
        backend, _ = choose(x.device, x.dtype, x.shape[1])
    if blocks.keep is not None:
        forth, back, _ = ssd_both_ways(
            x, dt, A, B, C, blocks._replace(keep=None), initial_state=initial_state, backend=backend
        )
        u, decay = (x, A) if A.dim() == 1 else (x[:, :, 0], A[0])
        where = {"initial_state": initial_state, "lengths": blocks.keep, "backend": backend}
        return forth, back, ssd(u, dt[:, :, 0], decay, B[:, :, 0], C[:, :, 0], **where)[1]
    if backend == "triton":
        given = {"initial_state": initial_state, "lengths": blocks.ragged, "sizes": blocks.sizes}
        y, state = BACKENDS["triton"](x, dt, A, B, C, **given)
        return y[0], y[1], state

    both = lambda v: torch.cat([v[:, :, 0], flip(v[:, :, 1], blocks)])  # noqa: E731
    ragged, start = blocks.ragged, blocks.start
    if A.dim() == 2:
        forth, state = ssd(
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
        back, _ = ssd(x, dt, A[1], B, C, lengths=ragged, reset=start, backend=backend)
        return forth, flip(back, blocks), state
    # In one call: rows 0..b-1 forth, rows b..2b-1 back in reversed time, forgetting at each block.
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
    forth, back = y.chunk(2)
    return forth, flip(back, blocks), state[: x.shape[0]]
