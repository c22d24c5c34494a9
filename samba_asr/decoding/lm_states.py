"""States of a Mamba language model after many texts that share their beginnings.

`MambaLm.step` makes new tensors of all states with every call.  For one unit after each of thirty texts that takes four times as
long as this pool, in which a state is read, and the next one written, once.  The results are the same (by test).

    r  steps of a call     v  units     h  heads     p  channels of a head     n  state
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.decoding.slots import SLOTS, Slots, kernels
from samba_asr.models.lm import LmLayer, MambaLm
from samba_asr.nn.experts import Experts

FBGEMM = ("x86", "fbgemm")
"""Engines of torch that multiply by matrices of float16."""


class HalfLinear(nn.Module):
    """A linear layer on the CPU with weights in float16, and sums in float32.

    For a few rows the weights are read from memory as fast as they can be, so half of the bytes is twice as fast, or more (10
    rows: 2.4 ms a call with float32, 0.65 with this).
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        bias = None if linear.bias is None else linear.bias.detach()
        self.packed = torch.ops.quantized.linear_prepack_fp16(linear.weight.detach(), bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


def with_half_weights(model: MambaLm) -> MambaLm:
    """Return the model for `LmStates` with its matrices in float16, where the CPU can; files keep them in less than that."""
    weight = model.output.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or torch.backends.quantized.engine not in FBGEMM:
        return model
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, HalfLinear(child))
    return model


class LmStates(Slots):
    """Pool of states.  A slot stands for a text."""

    def __init__(self, model: MambaLm, compiled: bool | None = None):
        """compiled: whether to use numba; default: on a CPU, if it is installed."""
        super().__init__()
        self.model, weight = model, model.embedding.weight
        self._device = weight.device
        if self._device.type == "cpu":
            self._convolve, self._advance = map(_on_arrays, kernels(compiled))
        else:
            self._convolve, self._advance = kernels(False)
        self._layers = cast("Sequence[LmLayer]", model.layers)
        states = model.init_state(1, device=self._device, dtype=weight.dtype)
        # Not zeros: memory that is never written is never taken.
        self._conv = [state.conv.new_empty(SLOTS, *state.conv.shape[1:]) for state in states]
        self._ssm = [state.ssm.new_empty(SLOTS, *state.ssm.shape[1:]) for state in states]

    def _clear(self, slot: int) -> None:
        for conv, ssm in zip(self._conv, self._ssm, strict=True):
            conv[slot], ssm[slot] = 0, 0

    def _double(self) -> None:
        self._conv = [torch.cat([x, torch.empty_like(x)]) for x in self._conv]
        self._ssm = [torch.cat([x, torch.empty_like(x)]) for x in self._ssm]

    @torch.inference_mode()
    def extend(self, source: Sequence[int], target: Sequence[int], units: Sequence[int]) -> np.ndarray:
        """See `Slots.extend`."""
        before, after, ids = (torch.tensor(some, device=self._device) for some in (source, target, units))
        x = self.model.embedding(ids)  # (r, d)
        for layer, conv, ssm in zip(self._layers, self._conv, self._ssm, strict=True):
            x = x + self._mixed(layer, x, before, after, conv, ssm)
            x = x + _alone(layer.feed_forward, x, isinstance(layer.feed_forward, Experts))
        if self.model.memory:
            x = x + _alone(self.model.memory, x, True)
        return self.model.output(self.model.norm(x)).log_softmax(-1).cpu().numpy()

    def _mixed(self, layer: LmLayer, x: Tensor, source: Tensor, target: Tensor, conv: Tensor, ssm: Tensor) -> Tensor:
        """Mamba-2's step (`samba_asr.nn.mixers.mamba2`) for one unit, from and to slots."""
        m = layer.mixer
        z, inputs, dt = m.in_proj(layer.norm(x)).split([m.d_inner, m.conv1d.in_channels, m.heads], -1)
        u = torch.empty(inputs.shape, device=x.device, dtype=x.dtype)
        self._convolve(conv, source, target, inputs, m.conv1d.weight[:, 0], cast("Tensor", m.conv1d.bias), u)
        u, B, C = F.silu(u).split([m.d_inner, m.d_state, m.d_state], -1)
        u, dt = u.unflatten(-1, (m.heads, -1)), F.softplus(dt + m.dt_bias)
        y = torch.empty(u.shape, device=x.device, dtype=x.dtype)
        self._advance(
            ssm, source, target, (dt * -m.A_log.exp()).exp(), u * dt[..., None], B.contiguous(), C.contiguous(), y
        )
        return m.out_proj(m.norm((y + m.D[:, None] * u).flatten(-2), z))


def _alone(module: Callable[..., Tensor], x: Tensor, routed: bool) -> Tensor:
    """Apply a module of sequences (b, u, d) to rows x (r, d)."""
    x = x[:, None]
    return (module(x, torch.ones(len(x), dtype=torch.long, device=x.device)) if routed else module(x))[:, 0]


def _on_arrays(kernel: Callable[..., None]) -> Callable[..., None]:
    return lambda *tensors: kernel(*(x.detach().numpy() for x in tensors))
