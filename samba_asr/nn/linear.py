"""Linear maps and feed-forwards that a GPU trains in few operations.

Under autocast torch copies every weight to bfloat16 by itself, and notes and undoes every copy and every change of shape: some
25 operations a linear map, forward and backward, of which four are work.  In a GPU's training step these modules have their
weights in bfloat16 already, all copied by one operation (`Low`), and state their gradients themselves.  Everywhere else they are
torch's own.
Shapes: n positions, d inputs, o outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from samba_asr.nn.dropout import Dropout
from samba_asr.nn.residual import added, normed, of_branch, of_input, of_weights, wide


class Copies(NamedTuple):
    """A linear map's parameters in the type of matrix products."""

    weight: Tensor  # (o, d)
    transposed: Tensor  # (d, o), a view of it
    bias: Tensor | None  # (o,)


class Linear(nn.Linear):
    """torch's linear map, with its parameters' names."""

    copies: Copies | None = None  # in a training step on a GPU

    def forward(self, input: Tensor) -> Tensor:
        if self.copies is None:
            return super().forward(input)
        return _Linear.apply(input, self.weight, self.bias, self.copies)  # pyright: ignore[reportReturnType]


class FeedForward(nn.Module):
    """norm, linear, SiLU, linear, at each position."""

    def __init__(self, d: int, expand: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.up = Linear(d, expand * d)
        self.down = Linear(expand * d, d)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.dropout(F.silu(self.up(self.norm(x))))))

    def added(self, x: Tensor, scale: float) -> Tensor:
        """Return x + scale * self(x)."""
        up, down = (
            getattr(linear, "copies", None) for linear in (self.up, self.down)
        )  # another module may have taken its place
        if up is None or down is None or x.dtype != torch.float32:
            return x + scale * self(x)
        weights = (self.norm.weight, self.norm.bias, self.up.weight, self.up.bias, self.down.weight, self.down.bias)
        p = self.dropout.p if self.training else 0.0
        how = (up, down, self.norm.eps, p, scale)
        return _FeedForward.apply(x, *weights, how)  # pyright: ignore[reportReturnType]


class Low:
    """The weights of all `Linear`s of a net in the type of matrix products."""

    def __init__(self, net: nn.Module, dtype: torch.dtype):
        self._modules = [m for m in net.modules() if isinstance(m, Linear)]
        self._parameters = [p for m in self._modules for p in (m.weight, m.bias) if p is not None]
        with torch.no_grad():
            self._held = [torch.empty_like(p, dtype=dtype) for p in self._parameters]
            held = iter(self._held)
            self._copies = []
            for m in self._modules:
                weight = next(held)
                self._copies.append(Copies(weight, weight.t(), None if m.bias is None else next(held)))

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights, which an optimizer has moved."""
        torch._foreach_copy_(self._held, self._parameters)  # pyright: ignore[reportPrivateImportUsage]

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Let the modules use the copies within the block."""
        try:
            for m, copies in zip(self._modules, self._copies, strict=True):
                m.copies = copies
            yield
        finally:
            for m in self._modules:
                m.copies = None


def product(x: Tensor, copies: Copies) -> Tensor:
    """Return the linear map (n, o) of x (n, d)."""
    return torch.mm(x, copies.transposed) if copies.bias is None else torch.addmm(copies.bias, x, copies.transposed)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, copies: Copies) -> Tensor:
        ctx.shape, ctx.dtype, ctx.bias = x.shape, x.dtype, bias is not None
        flat = x.reshape(-1, x.shape[-1]).to(copies.weight.dtype)
        ctx.save_for_backward(flat, copies.weight)
        return product(flat, copies).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1]).to(x.dtype)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = wide(gradient, weight) if ctx.dtype == torch.float32 else torch.mm(gradient, weight)
            of_x = of_x.view(ctx.shape)
        return of_x, *of_weights(gradient, x, ctx.bias), None


class _FeedForward(torch.autograd.Function):
    """x + scale dropout(down(dropout(silu(up(norm(x))))))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        norm, norm_bias, (up, down, eps, p, scale) = given[0], given[1], given[6]
        flat = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        inputs, mean, rstd = normed(flat, norm, norm_bias, eps, up.weight.dtype)
        before = product(inputs, up)
        inside, kept = F.silu(before), None
        if p:
            inside, kept = torch.native_dropout(inside, p, True)
        y, kept_out = added(flat, product(inside, down), p, scale)
        ctx.save_for_backward(
            flat, mean, rstd, inputs, before, inside, kept, kept_out, norm, norm_bias, up.weight, down.weight
        )
        ctx.p, ctx.scale = p, scale
        return y if x.dim() == 2 else y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, mean, rstd, inputs, before, inside, kept, kept_out, norm, norm_bias, up, down = ctx.saved_tensors
        shape = gradient.shape
        gradient = gradient if gradient.dim() == 2 else gradient.reshape(x.shape)
        of_y = of_branch(gradient, kept_out, ctx.p, inside.dtype, ctx.scale)
        of_down = of_weights(of_y, inside, True)
        of_inside = torch.mm(of_y, down)
        if kept is not None:
            of_inside = torch.ops.aten.native_dropout_backward(of_inside, kept, 1 / (1 - ctx.p))
        of_before = torch.ops.aten.silu_backward(of_inside, before)
        of_up = of_weights(of_before, inputs, True)
        of_x, *of_norm = of_input(gradient, wide(of_before, up), x, mean, rstd, norm, norm_bias)
        return of_x if len(shape) == 2 else of_x.view(shape), *of_norm, *of_up, *of_down, None
