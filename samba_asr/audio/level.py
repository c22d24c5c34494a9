"""A causal gain that brings speech of any level to that of the training data.

It follows two running estimates over E, the mean power of the last 200 ms in decibels relative to full scale.  L also uses
the power of the last hop, less 6 dB, so that no word begins too loud:

    L_t = max_{s <= t} (E_s - 0.5 dB per second * (t - s))      the level of speech
    N_t = min_{s <= t} (E_s + 1 dB per second * (t - s))        the level of the background

Speech with L from LOW to HIGH is unchanged, because training data lie there (95 % of LibriSpeech).  Quieter speech is raised
to LOW, and louder speech is lowered to HIGH.  Until L stands out from N, it may not be speech, and the gain raises the
background to QUIET at most.
Shapes: b batch, s samples, t hops.
"""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.streaming import Step, StreamingModule, mask, tail, valid_mask

LOW, HIGH = -20.0, -11.0  # dB, the range of the training data
QUIET = -75.0  # dB; a background below it is that of a quiet recording
MOST = 46.0  # dB, largest gain
DARK = -100.0  # dB; a background below it is digital silence, which says nothing about the recording
WINDOW = 0.2  # seconds
ONSET = 6.0  # dB of the first hop over the 200 ms of its word, so that one hop is enough to estimate the level
RELEASE, RISE = 0.5, 1.0  # dB per second
STANDS_OUT, SLOPE = 16.0, 4.0  # dB of L over N from which on it may be speech; dB of gain for each dB more


class Level(StreamingModule):
    """Waveform (b, s, 1) in [-1, 1] -> gain (b, s / hop, 1) in decibels, for the frame that ends with each hop."""

    def __init__(self, sample_rate: int, hop: int):
        super().__init__()
        self.stride = hop
        self.hops = max(1, round(WINDOW * sample_rate / hop))
        self.release, self.rise = RELEASE * hop / sample_rate, RISE * hop / sample_rate  # dB a hop

    def init_state(self, batch, *, device=None, dtype=None):
        """Return powers of the last hops with their counts (b, hops - 1, 2), L (b, 1) and N (b, 1)."""
        full = {"device": device, "dtype": dtype}
        return (
            torch.zeros(batch, self.hops - 1, 2, **full),
            torch.full((batch, 1), -1e4, **full),
            torch.full((batch, 1), 1e4, **full),
        )

    def step(self, x: Tensor, lengths: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> Step:
        before, peak, floor = state
        b, t = x.shape[0], x.shape[1] // self.stride
        counts = lengths // self.stride
        power = mask(x, lengths)[:, : t * self.stride, 0].view(b, t, self.stride).square().mean(-1, keepdim=True)
        valid = valid_mask(counts, t)  # (b, t)
        hops = torch.cat(
            [before, torch.cat([power, valid.unsqueeze(-1).to(power.dtype)], -1)], 1
        )  # (b, hops - 1 + t, 2)
        if t == 0:
            return Step(x.new_zeros(b, 0, 1), counts, state)
        window = hops.unfold(1, self.hops, 1).sum(-1)  # (b, t, 2)
        energy = 10 * (window[..., 0] / window[..., 1].clamp(min=1) + 1e-12).log10()  # (b, t) dB
        time = torch.arange(1, t + 1, device=x.device, dtype=x.dtype)
        onset = 10 * (power[..., 0] + 1e-12).log10() - ONSET
        up, down = torch.maximum(energy, onset) + self.release * time, energy.clamp(min=DARK) - self.rise * time
        far = torch.full_like(energy, 1e4)
        up, down = torch.where(valid, up, -far), torch.where(valid, down, far)
        tops = torch.cat([peak, up], 1).cummax(1).values  # (b, 1 + t): before the first hop, and after each
        bottoms = torch.cat([floor, down], 1).cummin(1).values
        speech, noise = tops[:, 1:] - self.release * time, bottoms[:, 1:] + self.rise * time
        raised = (LOW - speech).clamp(0, MOST)
        known = torch.maximum(QUIET - noise, SLOPE * (speech - noise - STANDS_OUT)).clamp(min=0)
        gain = torch.minimum(raised, known) - (speech - HIGH).clamp(min=0)
        last, passed = counts.unsqueeze(1), counts.unsqueeze(1).to(x.dtype)
        state = (
            tail(hops, counts, self.hops - 1) if self.hops > 1 else before,
            torch.where(last > 0, tops.gather(1, last) - self.release * passed, peak),
            torch.where(last > 0, bottoms.gather(1, last) + self.rise * passed, floor),
        )
        return Step(torch.where(valid, gain, torch.zeros_like(gain)).unsqueeze(-1), counts, state)
