"""Depthwise convolution that sees the past without limit and the future inside its block.

    y_t = sum_j weight[:, j] x_{t - past + j} + bias,      j up to past + future

The short convolution of Hydra, and that of the Conformer's module; streaming at any latency (samba_asr.nn.blocks).
Shapes: b batch, t time, d channels, k = past + 1 + future taps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.errors import UserError
from samba_asr.ops.blocks import Blocks, flip
from samba_asr.ops.conv1d.causal import causal_conv1d, causal_conv1d_torch, depthwise_conv1d, forget
from samba_asr.ops.device import choose_fused as choose
from samba_asr.ops.device import require_triton
from samba_asr.streaming import mask, tail


def block_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    initial_state: Tensor,
    blocks: Blocks,
    silu: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Convolve the valid steps (`blocks.ragged`) depthwise and centered, with zeros for steps beyond a block's end.

    Args:
        x: (b, t, d) inputs.
        weight: (d, k); bias (d,).
        initial_state: (b, past, d) the inputs before x.  Tap `past` is the current step's.
        silu: apply x * sigmoid(x) to the output.
        backend: "auto", "torch" or "triton", which supports no gaps.

    Where `blocks` have a gap of `BREAK` steps or more (samba_asr.ops.elapsed), no tap reaches across it.
    Returns y (b, t, d), unspecified after the valid steps, and the state after `blocks.kept` steps, (b, past, d) in the
    dtype of the initial state.  NaN in the padding reaches no valid output, no state and no gradient.
    """
    breaks = _breaks(blocks)
    if backend == "auto":
        backend, _ = ("torch", "") if blocks.has_gaps else choose(x.device, x.dtype, x.shape[1])
    if backend == "triton":
        if blocks.has_gaps:
            raise UserError("block_conv1d: backend 'triton' supports no gaps: use 'torch'")
        require_triton(x, "block_conv1d")
        from samba_asr.ops.conv1d.triton import block_conv1d_triton

        y, state = block_conv1d_triton(
            x, weight, bias, initial_state=initial_state, lengths=blocks.ragged, sizes=blocks.sizes, silu=silu
        )
        return y, state if blocks.keep is None else _state(x, initial_state, blocks).to(initial_state.dtype)
    if backend != "torch":
        raise UserError(f"block_conv1d has no backend {backend!r}: use 'auto', 'torch' or 'triton'")
    y, state = _block_conv1d_torch(x, weight, bias, initial_state, blocks, *breaks or (None, None))
    if blocks.keep is not None:
        state = _state(x, initial_state, blocks)
        if breaks:
            state = forget(state, breaks[0], blocks.keep)
    return F.silu(y) if silu else y, state.to(initial_state.dtype)


def _state(x: Tensor, initial_state: Tensor, blocks: Blocks) -> Tensor:
    """Return (b, past, d), the inputs before the next step."""
    return tail(
        torch.cat([initial_state.to(x.dtype), mask(x, blocks.ragged)], dim=1), blocks.kept, initial_state.shape[1]
    )


def _breaks(blocks: Blocks) -> tuple[Tensor, Tensor] | None:
    """Return the steps, (b, t) bool, before which taps of the past stop, and after which those ahead stop; None if none do."""
    if blocks.before is None or blocks.after is None:
        return None
    before, after = blocks.before.breaks, blocks.after.breaks
    return None if before is None or after is None or not bool(before.any()) else (before, after)


def _block_conv1d_torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor,
    blocks: Blocks,
    before: Tensor | None,
    after: Tensor | None,
) -> tuple[Tensor, Tensor]:
    past, ragged = initial_state.shape[1], blocks.ragged
    future = weight.shape[1] - 1 - past
    if x.shape[1] == 0:  # torch refuses to convolve less than a kernel
        return x, initial_state
    if blocks.start is None and before is None:  # one block: every step may see all others
        x = torch.cat([initial_state.to(x.dtype), mask(x, ragged)], dim=1)  # (b, past + t, d)
        return depthwise_conv1d(F.pad(x, (0, 0, 0, future)), weight, bias), tail(x, ragged, past)
    y, state = causal_conv1d(
        x, weight[:, : past + 1], bias, initial_state=initial_state, lengths=ragged, reset=before, backend="torch"
    )
    # In reversed time the steps ahead are the past.  The current step was counted above, so its tap is 0.
    ahead = F.pad(weight[:, past + 1 :].flip(1), (0, 1))  # (d, future + 1)
    reset = blocks.start
    if after is not None:
        reset = flip(after, blocks) if reset is None else reset | flip(after, blocks)
    most = blocks.most if after is None else None
    nothing = x.new_zeros(x.shape[0], future, x.shape[2])
    back, _ = causal_conv1d_torch(flip(x, blocks), ahead, None, nothing, ragged, reset, most)
    return y + flip(back, blocks), state
