"""Two small modules that keep the streaming contract, for tests of the contract and of code built on it."""

from __future__ import annotations

import torch
from torch import nn

from samba_asr.streaming import Step, StreamingModule, concat, mask, tail, take_time


class CausalConv(StreamingModule):
    """A dense causal convolution of kernel k and stride s."""

    def __init__(self, d_in: int, d_out: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(d_in, d_out, kernel, stride)
        self.context, self.stride = kernel - stride, stride

    def init_state(self, batch, *, device=None, dtype=None):
        return torch.zeros(batch, self.context, self.conv.in_channels, device=device, dtype=dtype)

    def step(self, x, lengths, state):
        x = torch.cat([state, mask(x, lengths)], dim=1)
        t = max(0, (x.shape[1] - self.context) // self.stride)
        y = self.conv(x.mT).mT if t else x.new_zeros(x.shape[0], 0, self.conv.out_channels)
        return Step(y, lengths // self.stride, tail(x, lengths, self.context))


class LookAhead(StreamingModule):
    """y_i = x_i + sum_j weight_j x_{i + j}, j = 1 .. k: it holds k steps back, which `finish` releases."""

    def __init__(self, d: int, k: int):
        super().__init__()
        self.k, self.d = k, d
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, k))

    def init_state(self, batch, *, device=None, dtype=None):
        return torch.zeros(batch, self.k, self.d, device=device, dtype=dtype), torch.zeros(batch, dtype=torch.long)

    def step(self, x, lengths, state):
        x, total = concat(state, (x.to(state[0].dtype), lengths))
        x = mask(x, total)
        ready = torch.where(lengths > 0, (total - self.k).clamp(min=0), 0)
        held = total - ready
        waiting = mask(tail(x, ready, self.k), held)
        return Step(self._read(x), ready, (waiting, held))

    def finish(self, state):
        x, held = state
        return self._read(torch.cat([x, torch.zeros_like(x)], dim=1)), held

    def _read(self, x):
        """x (b, k + t, d) -> (b, t, d)"""
        t = x.shape[1] - self.k
        index = torch.arange(t).expand(x.shape[0], -1)
        return take_time(x, index) + sum(w * take_time(x, index + j) for j, w in enumerate(self.weight, 1))
