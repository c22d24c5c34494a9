"""Causal depthwise convolution with state, ragged lengths and resets.

    y_t = sum_j weight[:, j] x_{t - (k - 1) + j} + bias

The short convolution of every Mamba mixer, and the two halves of the convolution module.
Shapes: b batch, t time, d channels, k kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from samba_asr.errors import UserError
from samba_asr.ops.device import choose_fused as choose
from samba_asr.ops.device import require_triton
from samba_asr.ops.exporting import exporting
from samba_asr.streaming import mask, tail, take_time

FEW = 1 << 18
"""Number of products, b t d k, up to which a sum of products is faster than torch's convolution, as in a live step.  One thread
of an AMD EPYC, with caches as a step of other layers leaves them: 1 x 16 x 144 x 31 takes 0.16 ms against 0.39, 2 x 16 x 416 x 7
0.16 against 0.48; both are equal at four times as many."""


def causal_conv1d_naive(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Definition of `causal_conv1d`: a loop over time that keeps the last k - 1 inputs."""
    b, t, d = x.shape
    k = weight.shape[1]
    state = x.new_zeros(b, k - 1, d) if initial_state is None else initial_state
    outputs = []
    for i in range(t):
        old, x_i = state, x[:, i]
        if reset is not None:
            state = state.masked_fill(reset[:, i, None, None], 0)
        window = torch.cat([state, x_i[:, None]], dim=1)  # (b, k, d)
        y_i = (window * weight.T).sum(1)
        if bias is not None:
            y_i = y_i + bias
        state = window[:, 1:]
        if lengths is not None:
            valid = (i < lengths)[:, None]
            y_i = torch.where(valid, y_i, 0)
            state = torch.where(valid[..., None], state, old)
        outputs.append(y_i)
    return (torch.stack(outputs, dim=1) if outputs else x.new_zeros(b, 0, d)), state


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    silu: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Convolve x depthwise over past steps.

    Args:
        x: (b, t, d) inputs.
        weight: (d, k), the tap of the current step last; bias (d,).
        initial_state: (b, k - 1, d) the inputs before x, default zeros.
        lengths: (b,) valid steps.  After them y is unspecified, and the padding, NaN included, reaches no valid output, no
            state and no gradient.
        reset: (b, t) bool; True: all inputs before this step count as zeros from here on.
        silu: apply x * sigmoid(x) to the output.
        backend: "auto", "torch", or "triton", which supports no reset: use `block_conv1d` to run backward inside blocks.

    Returns y (b, t, d) and the state after the last valid step, (b, k - 1, d).
    """
    b, t, d = x.shape
    k = weight.shape[1]
    if initial_state is None:
        initial_state = x.new_zeros(b, k - 1, d)
    if backend == "auto":
        backend = "torch" if reset is not None else choose(x.device, x.dtype, t)[0]
    if backend == "triton":
        if reset is not None:
            raise UserError("causal_conv1d: backend 'triton' supports no reset: use 'torch'")
        require_triton(x, "causal_conv1d")
        from samba_asr.ops.conv1d.triton import block_conv1d_triton

        whole = torch.full((b,), t, device=x.device)  # unused: only taps ahead read block sizes
        return block_conv1d_triton(
            x, weight, bias, initial_state=initial_state, lengths=lengths, sizes=whole, silu=silu
        )
    if backend != "torch":
        raise UserError(f"causal_conv1d has no backend {backend!r}: use 'auto', 'torch' or 'triton'")
    y, state = causal_conv1d_torch(x, weight, bias, initial_state, lengths, reset)
    return F.silu(y) if silu else y, state


def causal_conv1d_torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    most: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`causal_conv1d` in torch's own operations.  most: resets in a row, at most; so a GPU need not be asked for their number."""
    b, t, d = x.shape
    k = weight.shape[1]
    x = torch.cat([initial_state.to(x.dtype), mask(x, lengths)], dim=1)  # (b, k - 1 + t, d)
    state = tail(x, lengths, k - 1)
    if reset is None or t == 0:
        return depthwise_conv1d(x, weight, bias), state
    if lengths is None:
        lengths = torch.full((b,), t, device=x.device)

    # Insert k - 1 zeros before every reset, so that a plain convolution cannot see past it.
    reset = reset & (torch.arange(t, device=x.device) < lengths[:, None])
    passed = reset.cumsum(1)  # (b, t) resets so far
    at = torch.arange(t, device=x.device) + passed * (k - 1)  # (b, t) where each step goes
    resets = int(passed.max()) if most is None or x.device.type == "cpu" else most
    gaps = -(-(resets + 1) // 8) * 8  # a multiple: few shapes for oneDNN to compile kernels for
    spaced = x.new_zeros(b, t + (k - 1) * gaps, d)
    place = torch.cat([torch.arange(k - 1, device=x.device).expand(b, -1), at + k - 1], dim=1)
    spaced = spaced.scatter(1, place[..., None].expand(-1, -1, d), x)
    y = take_time(depthwise_conv1d(spaced, weight, bias), at)
    return y, forget(state, reset, lengths)


def forget(state: Tensor, reset: Tensor, lengths: Tensor) -> Tensor:
    """Zero the inputs in a state (b, k - 1, d) after `lengths` (b,) steps that lie before the last reset (b, t) bool."""
    width, passed = state.shape[1], reset.cumsum(1)  # (b, t) resets before or at each step
    since = torch.cat([passed.new_zeros(len(passed), width), passed], dim=1)
    alive = tail(since[..., None], lengths, width) == passed.gather(1, (lengths[:, None] - 1).clamp(min=0))[..., None]
    return torch.where(alive | (lengths == 0)[:, None, None], state, 0)


def depthwise_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve x (b, k - 1 + t, d) with weight (d, k) and bias (d,) to (b, t, d); no steps if x is shorter than k."""
    if not exporting() and x.shape[1] < weight.shape[1]:
        return x[:, :0]
    if x.device.type == "cpu":
        d, k = weight.shape
        if exporting():  # one operation, and no choice by a size that may be a symbol
            # onnxruntime's kernel for depthwise convolution, ten times as fast as its convolution in general, takes images.
            return F.conv2d(x.mT.unsqueeze(2), weight[:, None, None], bias, groups=d).squeeze(2).mT
        if not torch.is_grad_enabled() and x.shape[0] * (x.shape[1] - k + 1) * d * k <= FEW:
            y = (x.unfold(1, k, 1) * weight).sum(-1)  # (b, t, d, k) -> (b, t, d)
            return y if bias is None else y + bias
        return _CpuConv.apply(x, weight, bias)
    return F.conv1d(x.mT, weight[:, None], bias, groups=weight.shape[0]).mT


class _CpuConv(torch.autograd.Function):
    """torch's convolution forward, in float32; backward, one pass over time for each tap.

    torch's backward of a depthwise convolution is slow on CPUs, and autocast copies x and y to bfloat16 and back in vain.
    Forward and backward at k = 4, b = 1, t = 370, d = 448, one thread of an AMD EPYC: 1.6 ms by torch in float32, 2.2 in
    bfloat16, 0.64 like this; at k = 31, d = 192: 2.2, 3.1 and 1.5.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return F.conv1d(x.mT, weight[:, None], bias, groups=weight.shape[0]).mT

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, dy: Tensor):
        x, weight = ctx.saved_tensors
        taps, dy, t = weight.T.contiguous(), dy.contiguous(), dy.shape[1]
        dx, dtaps = torch.zeros_like(x), torch.empty_like(taps)
        for j, tap in enumerate(taps):
            dx[:, j : j + t].addcmul_(dy, tap)
            dtaps[j] = (dy * x[:, j : j + t]).sum((0, 1))
        return dx, dtaps.T, dy.sum((0, 1)) if ctx.has_bias else None
