"""A causal gain that brings speech of any level to that of the training data.

Powers are in decibels relative to full scale.  E_t is the mean power of the last 200 ms, p_t that of the last hop of 10 ms.

    N_t = min_{s <= t} (E_s + 1 dB per second * (t - s))    the level of the background
    L_t = mean of the power of hops that are 12 dB over N    the level of speech, over the last 30 s

Speech whose L lies between LOW and HIGH is unchanged: 98 % of the training data.  Quieter speech is raised, 2 dB for each dB
below LOW, until it is at TARGET; louder speech is lowered to HIGH.  L is a mean, because a gain that follows each peak costs
7 % more word errors even where it is right on average.  Until there is half a second of speech, the rest of it counts with
the power that speech has below its loudest hop so far, so that no word begins too loud.  Until L stands out from N, it may
not be speech, and the gain raises the background to QUIET at most.
Shapes: b batch, s samples, t hops.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.audio.level_numpy import (
    ACTIVE,
    DARK,
    ENOUGH,
    FIRST,
    HIGH,
    LOW,
    MEMORY,
    MOST,
    QUIET,
    RISE,
    SLOPE,
    STANDS_OUT,
    START,
    SURE,
    TARGET,
    VOID,
    WINDOW,
)
from samba_asr.streaming import Step, StreamingModule, mask, tail, valid_mask


class Level(StreamingModule):
    """Waveform (b, s, 1) in [-1, 1] -> gain (b, s / hop, 1) in decibels, for the frame that ends with each hop."""

    def __init__(self, sample_rate: int, hop: int):
        super().__init__()
        self.stride = hop
        self.hops, self.memory = (max(1, round(seconds * sample_rate / hop)) for seconds in (WINDOW, MEMORY))
        self.first, self.enough = (max(1.0, seconds * sample_rate / hop) for seconds in (FIRST, ENOUGH))  # hops
        self.rise = RISE * hop / sample_rate  # dB a hop

    def init_state(self, batch, *, device=None, dtype=None):
        """Return powers of the last hops with their counts (b, hops - 1, 2), active ones (b, memory - 1, 2) and N (b, 1)."""
        full = {"device": device, "dtype": dtype}
        return (
            torch.zeros(batch, self.hops - 1, 2, **full),
            torch.zeros(batch, self.memory - 1, 2, **full),
            torch.full((batch, 1), 1e4, **full),
        )

    def step(self, x: Tensor, lengths: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> Step:
        before, active, floor = state
        b, t = x.shape[0], x.shape[1] // self.stride
        counts = lengths // self.stride
        power = mask(x, lengths)[:, : t * self.stride, 0].view(b, t, self.stride).square().mean(-1, keepdim=True)
        valid = valid_mask(counts, t)  # (b, t)
        hops = torch.cat([before, torch.cat([power, valid.unsqueeze(-1).to(power.dtype)], -1)], 1)
        if t == 0:
            return Step(x.new_zeros(b, 0, 1), counts, state)
        sums, received = hops.unfold(1, self.hops, 1).sum(-1).unbind(-1)  # of few hops: directly
        energy = 10 * (sums / received.clamp(min=1) + 1e-12).log10()  # (b, t) dB
        now = 10 * (power[..., 0] + 1e-12).log10()
        time = torch.arange(1, t + 1, device=x.device, dtype=x.dtype)
        down = torch.where(valid, energy.clamp(min=DARK) - self.rise * time, torch.full_like(energy, 1e4))
        bottoms = torch.cat([floor, down], 1).cummin(1).values
        noise = bottoms[:, 1:] + self.rise * time
        speaks = (valid & (now > noise + ACTIVE)).to(power.dtype)
        spoken = torch.cat([active, torch.stack([power[..., 0] * speaks, speaks], -1)], 1)  # (b, memory - 1 + t, 2)
        total, number, loudest = last_hops(spoken, self.memory)  # (b, t)
        rest = (self.first - number).clamp(min=0)
        speech = 10 * ((total + rest * loudest * START) / (number + rest) + 1e-12).log10()
        raised = torch.minimum(SLOPE * (LOW - speech), TARGET - speech).clamp(0, MOST)
        background = torch.where(noise > VOID, QUIET - noise, 0.0)
        evidence = (number / self.enough).clamp(max=1)
        known = torch.maximum(background, evidence * SURE * (speech - noise - STANDS_OUT)).clamp(min=0)
        gain = torch.minimum(raised, known) - (speech - HIGH).clamp(min=0)
        last, passed = counts.unsqueeze(1), counts.unsqueeze(1).to(x.dtype)
        state = (
            tail(hops, counts, self.hops - 1) if self.hops > 1 else before,
            tail(spoken, counts, self.memory - 1) if self.memory > 1 else active,
            torch.where(last > 0, bottoms.gather(1, last) + self.rise * passed, floor),
        )
        return Step(torch.where(valid, gain, torch.zeros_like(gain)).unsqueeze(-1), counts, state)


def last_hops(x: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of powers, the sum of counts and the largest power of the `window` hops up to each new one, each (b, t).

    x: powers (not negative) and counts (b, window - 1 + t, 2) of earlier hops and of t > 0 new ones.
    Each window is the end of the earlier hops and the beginning of the new ones, so two running sums give all of them.
    """
    sums, peaks = [], []
    for first in range(0, x.shape[1] - window + 1, window):
        new = x[:, first + window - 1 : first + 2 * window - 1]  # (b, n, 2)
        old = F.pad(x[:, first : first + window - 1], (0, 0, 0, 2))  # zeros, for the window that has no earlier hop
        common = old[:, new.shape[1] :]  # in every window
        ends = old[:, : new.shape[1]].flip(1)
        sums.append(ends.cumsum(1).flip(1) + common.sum(1, keepdim=True) + new.cumsum(1))
        louder = torch.maximum(ends[..., 0].cummax(1).values.flip(1), new[..., 0].cummax(1).values)
        peaks.append(torch.maximum(louder, common[..., 0].amax(1, keepdim=True)))
    total, count = torch.cat(sums, 1).unbind(-1)
    return total, count, torch.cat(peaks, 1)
