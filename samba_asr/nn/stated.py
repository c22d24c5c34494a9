"""Mixer and convolution of an encoder layer in a GPU's training step: as few operations as the work needs.

autograd notes, undoes and adds up every split, change of shape and copy between kernels: of 125 operations of a Hydra layer,
forward and backward, 56 are work.  So here are both residual layers as functions that state their own gradients, on the rows of
whole utterances end to end.  Kernels read and write columns of one tensor, and nothing is kept of states, which are zeros before
an utterance and of no interest after it.  The definition is `EncoderLayer.step`, which computes everything else, and tests
compare values and gradients.
Shapes: b rows of t steps, n = b t; d d_model, i d_inner, h heads, s state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from samba_asr.nn.conv import ConvolutionModule
from samba_asr.nn.linear import Copies, product
from samba_asr.nn.mixers.hydra import EPS, Hydra
from samba_asr.nn.residual import added, normed, of_branch, of_input, of_weights, wide
from samba_asr.ops.blocks import Blocks
from samba_asr.ops.conv1d.triton import Shape, convolve, convolve_backward
from samba_asr.ops.flat.triton import Joined, Raw, join, join_backward, scan, scan_backward


class Rows(NamedTuple):
    """Rows and blocks, as the kernels take them."""

    b: int
    lengths: Tensor | None  # (b,)
    sizes: Tensor  # (b,) steps per block


def _rows(blocks: Blocks) -> Rows:
    return Rows(len(blocks.sizes), blocks.ragged, blocks.sizes)


class Mixing(NamedTuple):
    """Arguments of the mixer's function that have no gradient."""

    rows: Rows
    into: Copies
    skip: Copies
    out: Copies
    eps: float  # of the layer norm
    p: float  # of dropout
    state: int  # s
    past: int  # taps of the convolution before the current step


def mixed(x: Tensor, norm: nn.LayerNorm, mixer: Hydra, p: float, blocks: Blocks) -> Tensor:
    """Return x (n, d) + dropout of the mixer of its norm, all utterances from their start."""
    into, skip, out = (linear.copies for linear in (mixer.in_proj, mixer.fc_D, mixer.out_proj))
    assert into is not None
    assert skip is not None
    assert out is not None
    conv = mixer.conv1d.conv1d
    weights = (mixer.in_proj.weight, conv.weight, conv.bias, mixer.dt_bias, mixer.A_log, mixer.D, mixer.fc_D.weight)
    weights = (norm.weight, norm.bias, *weights, mixer.norm.weight, mixer.out_proj.weight)
    how = Mixing(_rows(blocks), into, skip, out, norm.eps, p, mixer.d_state, mixer.conv1d.past)
    return _Mixed.apply(x, *weights, how)  # pyright: ignore[reportReturnType]


class _Mixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        norm, norm_bias, _, conv, conv_bias, dt_bias, A_log, D, _, gate, _, how = given
        (b, lengths, sizes), s, inner = how.rows, how.state, len(gate)
        inputs, mean, rstd = normed(x, norm, norm_bias, how.eps, how.into.weight.dtype)
        z, u, dt = product(inputs, how.into).split([inner, inner + 4 * s, 2 * len(D)], 1)
        y = u.new_empty(u.shape)
        convolve(u, conv, conv_bias, None, lengths, sizes, y, _shape(u, how, conv), silu=True)
        heads, B, C = y.split([inner, s, 3 * s], 1)  # B, C forward, B, C backward
        ways, states = scan(Raw(heads, dt, B, C, dt_bias, A_log), b, inner // len(D), s, lengths, sizes)
        skip = product(heads, how.skip)
        forward, backward = ways.unbind(0)
        gated = join(Joined(forward, backward, heads, skip, D, z, gate), b, lengths, sizes, EPS)
        out, kept = added(x, product(gated, how.out), how.p)
        ctx.how = how
        ctx.save_for_backward(
            *(x, mean, rstd, inputs, z, u, dt, heads, B, C, states, skip, forward, backward, gated, kept),
            *(norm, norm_bias, conv, conv_bias, dt_bias, A_log, D, gate),
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, mean, rstd, inputs, z, u, dt, heads, B, C, states, skip, forward, backward, gated, kept, *weights = (
            ctx.saved_tensors
        )
        norm, norm_bias, conv, conv_bias, dt_bias, A_log, D, gate = weights
        how, inner = ctx.how, len(gate)
        (b, lengths, sizes), s = how.rows, how.state
        of_y = of_branch(gradient, kept, how.p, inputs.dtype)
        of_out, _ = of_weights(of_y, gated, False)

        of_inputs = inputs.new_empty(len(x), len(how.into.weight))  # of z, u, dt: each kernel writes its own columns
        gz, gu, g_dt = of_inputs.split([inner, u.shape[1], 2 * len(D)], 1)
        of_convolved = u.new_empty(u.shape)
        of_heads, _ = of_convolved.split([inner, 4 * s], 1)
        of_joined = torch.mm(of_y, how.out.weight)
        joined = Joined(forward, backward, heads, skip, D, z, gate)
        of_ways, of_skip, of_gate = join_backward(joined, b, lengths, sizes, EPS, of_joined, of_heads, gz)
        of_D, (of_fc, _) = of_skip.sum(0, dtype=torch.float32), of_weights(of_skip, heads, False)
        of_heads.addmm_(of_skip, how.skip.weight)
        raw = Raw(heads, dt, B, C, dt_bias, A_log)
        of_A, of_bias = scan_backward(
            raw, b, inner // len(D), s, lengths, sizes, states, of_ways, g_dt=g_dt, gu=of_convolved
        )
        where = {"shape": _shape(u, how, conv), "silu": True}
        of_conv = convolve_backward(u, conv, conv_bias, None, lengths, sizes, of_convolved, gu, **where)
        of_into, _ = of_weights(of_inputs, inputs, False)
        of_x, *of_norm = of_input(gradient, wide(of_inputs, how.into.weight), x, mean, rstd, norm, norm_bias)
        return of_x, *of_norm, of_into, *of_conv, of_bias, of_A, of_D, of_fc, of_gate, of_out, None


def _shape(x: Tensor, how: Mixing | Convolving, weight: Tensor) -> Shape:
    return Shape(how.rows.b, len(x) // how.rows.b, x.shape[1], how.past, weight.shape[-1])


class Convolving(NamedTuple):
    """Arguments of the convolution's function that have no gradient."""

    rows: Rows
    expand: Copies
    project: Copies
    eps: float  # of the layer norm before the module
    inner_eps: float  # of that inside
    p: float  # of dropout
    past: int


def convolved(x: Tensor, norm: nn.LayerNorm, module: ConvolutionModule, p: float, blocks: Blocks) -> Tensor:
    """Return x (n, d) + dropout of the convolution module of its norm, all utterances from their start."""
    expand, project = module.expand.copies, module.project.copies
    assert expand is not None
    assert project is not None
    inner, conv = module.norm, module.depthwise.conv1d
    weights = (norm.weight, norm.bias, module.expand.weight, module.expand.bias, conv.weight, conv.bias)
    weights = (*weights, inner.weight, inner.bias, module.project.weight, module.project.bias)
    how = Convolving(_rows(blocks), expand, project, norm.eps, inner.eps, p, module.depthwise.past)
    return _Convolved.apply(x, *weights, how)  # pyright: ignore[reportReturnType]


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        norm, norm_bias, _, _, conv, conv_bias, inner, inner_bias, _, _, how = given
        low = how.expand.weight.dtype
        inputs, mean, rstd = normed(x, norm, norm_bias, how.eps, low)
        expanded = product(inputs, how.expand)
        u = F.glu(expanded, -1)
        y = u.new_empty(u.shape, dtype=torch.float32)
        convolve(u, conv, conv_bias, None, how.rows.lengths, how.rows.sizes, y, _shape(u, how, conv), silu=False)
        inside, inner_mean, inner_rstd = normed(y, inner, inner_bias, how.inner_eps, torch.float32)
        active = F.silu(inside).to(low)
        out, kept = added(x, product(active, how.project), how.p)
        ctx.how = how
        ctx.save_for_backward(
            *(x, mean, rstd, inputs, expanded, u, y, inner_mean, inner_rstd, inside, active, kept),
            *(norm, norm_bias, conv, conv_bias, inner, inner_bias),
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, mean, rstd, inputs, expanded, u, y, inner_mean, inner_rstd, inside, active, kept, *weights = (
            ctx.saved_tensors
        )
        (norm, norm_bias, conv, conv_bias, inner, inner_bias), how = weights, ctx.how
        _, lengths, sizes = how.rows
        of_projected = of_branch(gradient, kept, how.p, active.dtype)
        of_project = of_weights(of_projected, active, True)
        of_inside = torch.ops.aten.silu_backward(wide(of_projected, how.project.weight), inside)
        of_y, *of_inner = torch.ops.aten.native_layer_norm_backward(
            of_inside, y, y.shape[1:], inner_mean, inner_rstd, inner, inner_bias, [True, True, True]
        )
        of_u, where = u.new_empty(u.shape), {"shape": _shape(u, how, conv), "silu": False}
        of_conv = convolve_backward(u, conv, conv_bias, None, lengths, sizes, of_y, of_u, **where)
        of_expanded = torch.ops.aten.glu_backward(of_u, expanded, -1)
        of_expand = of_weights(of_expanded, inputs, True)
        of_x, *of_norm = of_input(gradient, wide(of_expanded, how.expand.weight), x, mean, rstd, norm, norm_bias)
        return of_x, *of_norm, *of_expand, *of_conv, *of_inner, *of_project, None
