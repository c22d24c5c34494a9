"""States of a Mamba language model after many texts that share their beginnings.

`MambaLm.step` makes new tensors of all states with every call.  For one unit after each of thirty texts that takes four times as
long as this pool, in which a state is read, and the next one written, once.  The results are the same (by test).

    r  steps of a call     v  units     h  heads     p  channels of a head     n  state
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.models.decoder import BOUNDARY
from samba_asr.models.lm import LmLayer, MambaLm
from samba_asr.nn.experts import Experts

SLOTS = 256  # at first; the pool doubles when it is full

Advance = Callable[..., None]
"""Function like `advance`."""


def advance(
    pool: Tensor, source: Tensor, target: Tensor, decay: Tensor, x: Tensor, B: Tensor, C: Tensor, y: Tensor
) -> None:
    """The definition of `samba_asr.decoding.compiled.states.advance`."""
    state = pool[source] * decay[..., None, None] + x[..., None] * B[:, None, None, :]
    pool[target] = state
    torch.matmul(state, C[:, None, :, None], out=y.unsqueeze(-1))


class LmStates:
    """Pool of states.  A slot stands for a text."""

    def __init__(self, model: MambaLm, compiled: bool | None = None):
        """compiled: whether to use numba; default: on a CPU, if it is installed."""
        self.model, self._device = model, model.output.weight.device
        self._advance = _advance(compiled if self._device.type == "cpu" else False)
        self._layers = cast("Sequence[LmLayer]", model.layers)
        states = model.init_state(SLOTS, device=self._device, dtype=model.output.weight.dtype)
        self._conv, self._ssm = [state.conv for state in states], [state.ssm for state in states]
        self._free, self._used = list(range(SLOTS))[::-1], set[int]()

    def start(self) -> tuple[int, np.ndarray]:
        """Return the slot of the empty text, and ln p (v,) of each first unit; BOUNDARY stands for the end of the text."""
        (slot,) = self.take(1)
        for conv, ssm in zip(self._conv, self._ssm, strict=True):
            conv[slot], ssm[slot] = 0, 0
        return slot, self.extend([slot], [slot], [BOUNDARY])[0]

    def take(self, n: int) -> list[int]:
        """Return n slots for `extend`, in use from now on."""
        while len(self._free) < n:
            size = len(self._conv[0])
            self._free = [*range(size, 2 * size)][::-1] + self._free
            self._conv = [torch.cat([x, torch.zeros_like(x)]) for x in self._conv]
            self._ssm = [torch.cat([x, torch.zeros_like(x)]) for x in self._ssm]
        slots = [self._free.pop() for _ in range(n)]
        self._used.update(slots)
        return slots

    def keep(self, slots: Collection[int]) -> None:
        """Give back all slots but these."""
        unused = sorted(self._used.difference(slots), reverse=True)
        self._free += unused
        self._used.difference_update(unused)

    @torch.inference_mode()
    def extend(self, source: Sequence[int], target: Sequence[int], units: Sequence[int]) -> np.ndarray:
        """Write at `target` the states after texts with one unit more, and return ln p (r, v) of each next unit.

        source: slots of the texts; a target of an earlier step may be one.
        """
        levels = [torch.tensor(level, device=self._device) for level in _levels(source, target)]
        before, after, ids = (torch.tensor(some, device=self._device) for some in (source, target, units))
        x = self.model.embedding(ids)  # (r, d)
        for layer, conv, ssm in zip(self._layers, self._conv, self._ssm, strict=True):
            x = x + self._mixed(layer, x, [(level, before[level], after[level]) for level in levels], conv, ssm)
            x = x + _alone(layer.feed_forward, x, isinstance(layer.feed_forward, Experts))
        if self.model.memory:
            x = x + _alone(self.model.memory, x, True)
        return self.model.output(self.model.norm(x)).log_softmax(-1).cpu().numpy()

    def _mixed(
        self, layer: LmLayer, x: Tensor, levels: Sequence[tuple[Tensor, Tensor, Tensor]], conv: Tensor, ssm: Tensor
    ) -> Tensor:
        """Mamba-2's step (`samba_asr.nn.mixers.mamba2`) for one unit.  levels: rows of x, their sources and targets."""
        m = layer.mixer
        z, inputs, dt = m.in_proj(layer.norm(x)).split([m.d_inner, m.conv1d.in_channels, m.heads], -1)
        dt = F.softplus(dt + m.dt_bias)
        decay = (dt * -m.A_log.exp()).exp()
        mixed = x.new_empty(len(x), m.heads, m.d_inner // m.heads)
        for rows, source, target in levels:
            window = torch.cat([conv[source], inputs[rows, None]], 1)  # (r, d_conv, channels)
            conv[target] = window[:, 1:]
            u = F.silu((window * m.conv1d.weight[:, 0].T).sum(1) + cast("Tensor", m.conv1d.bias))
            u, B, C = u.split([m.d_inner, m.d_state, m.d_state], -1)
            u = u.unflatten(-1, (m.heads, -1))
            y = torch.empty_like(u, memory_format=torch.contiguous_format)
            self._advance(ssm, source, target, decay[rows], u * dt[rows, :, None], B.contiguous(), C.contiguous(), y)
            mixed[rows] = y + m.D[:, None] * u
        return m.out_proj(m.norm(mixed.flatten(-2), z))


def _levels(source: Sequence[int], target: Sequence[int]) -> list[list[int]]:
    """Return the steps in groups, so that the sources of each are the targets of none but earlier groups."""
    depth: dict[int, int] = {}
    groups: list[list[int]] = []
    for step, (low, high) in enumerate(zip(source, target, strict=True)):
        depth[high] = n = depth.get(low, -1) + 1
        if n == len(groups):
            groups.append([])
        groups[n].append(step)
    return groups


def _alone(module: Callable[..., Tensor], x: Tensor, routed: bool) -> Tensor:
    """Apply a module of sequences (b, u, d) to rows x (r, d)."""
    x = x[:, None]
    return (module(x, torch.ones(len(x), dtype=torch.long, device=x.device)) if routed else module(x))[:, 0]


def _advance(compiled: bool | None) -> Advance:
    """Return the compiled function, or its definition."""
    if compiled is not False:
        try:
            from samba_asr.decoding.compiled import states
            from samba_asr.decoding.compiled.jit import call_first
        except ImportError:
            if compiled:
                raise
        else:
            return lambda *arrays: call_first(lambda: states.advance(*(x.numpy() for x in arrays)))
    return advance
