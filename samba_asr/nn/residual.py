"""Parts of residual layers that state their own gradients, x + scale dropout(layer(norm(x))), on flat rows.

Shapes: n positions, d channels, o outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor


def normed(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return the layer norm of x (n, d) in `dtype`, and its mean and inverse deviation, which `of_input` needs."""
    y, mean, rstd = torch.native_layer_norm(x, x.shape[1:], weight, bias, eps)
    return y.to(dtype), mean, rstd


def added(x: Tensor, y: Tensor, p: float, scale: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """Return x + scale dropout(y), and what the dropout of probability p kept; None if it is off."""
    kept = None
    if p:
        y, kept = torch.native_dropout(y, p, True)
    return torch.add(x, y, alpha=scale), kept


def of_branch(gradient: Tensor, kept: Tensor | None, p: float, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """Return the gradient of y in `added`, in `dtype`, from that of the sum."""
    if kept is not None:
        return torch.ops.aten.native_dropout_backward(gradient, kept, scale / (1 - p)).to(dtype)
    return (gradient if scale == 1 else gradient * scale).to(dtype)


def of_input(
    gradient: Tensor, of_normed: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, which the sum and the norm read, and of the norm's weight and bias."""
    of_x, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
        of_normed, x, x.shape[1:], mean, rstd, weight, bias, [True, True, True]
    )
    return of_x.add_(gradient), of_weight, of_bias


def wide(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of two matrices in float32."""
    return torch.mm(a, b) if a.dtype == torch.float32 else torch.mm(a, b, torch.float32)


def of_weights(gradient: Tensor, x: Tensor, bias: bool) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of weight (o, d) and bias (o,), float32, from those of the output (n, o) and from the input (n, d)."""
    return wide(gradient.t(), x), gradient.sum(0, dtype=torch.float32) if bias else None
