"""Log-mel front end as a streaming module: no centering, no look-ahead, no statistics of the utterance.

A frame ends where its samples end: frame i sees samples (i + 1) hop - window .. (i + 1) hop, with zeros before the first.
Normalization is global (mean and deviation of each mel over the training data), and part of the weights.
Shapes: b batch, s samples, t frames, m mels, f frequency bins.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.audio.level import Level
from samba_asr.config import FeatureConfig
from samba_asr.errors import UserError
from samba_asr.streaming import State, Step, StreamingModule, mask, tail, valid_mask

FLOOR = 1e-8
"""Added to the mel power before the logarithm: about the quantization noise of 16-bit audio, so digital silence is quiet."""


class LogMel(StreamingModule):
    """Waveform (b, s, 1) in [-1, 1] -> normalized log-mel (b, s / hop, m)."""

    window: Tensor  # (window,)
    bank: Tensor  # (m, f)
    centers: Tensor  # (m,) Hz
    mean: Tensor  # (m,)
    std: Tensor  # (m,)

    def __init__(self, config: FeatureConfig):
        super().__init__()
        if config.hop > config.window:
            raise UserError(f"hop {config.hop} must not exceed window {config.window}")
        self.window_size, self.stride = config.window, config.hop
        self.n_fft = 1 << (config.window - 1).bit_length()
        bank = mel_filterbank(config.sample_rate, self.n_fft, config.mels, config.low_hz, config.high_hz)
        self.register_buffer("window", torch.hann_window(config.window, periodic=True), persistent=False)
        self.register_buffer("bank", bank, persistent=False)  # (m, f)
        centers = _mel_edges(config.mels, config.low_hz, config.high_hz)[1:-1].float()
        self.register_buffer("centers", centers, persistent=False)  # (m,) Hz
        self.register_buffer("mean", torch.zeros(config.mels))
        self.register_buffer("std", torch.ones(config.mels))
        self.level = Level(config.sample_rate, config.hop) if config.gain else None

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the global normalization: mean and standard deviation (m,) of the unnormalized log-mel."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=1e-3))

    def init_state(self, batch, *, device=None, dtype=None):
        before = torch.zeros(batch, self.window_size - self.stride, 1, device=device, dtype=dtype)
        return before if self.level is None else (before, self.level.init_state(batch, device=device, dtype=dtype))

    def step(self, x: Tensor, lengths: Tensor, state: State) -> Step:
        if self.level is None:
            return self._log_mel(x, lengths, state, None)
        before, level = state
        gain, _, level = self.level.step(x, lengths, level)
        features, lengths, before = self._log_mel(x, lengths, before, gain)
        return Step(features, lengths, (before, level))

    def _log_mel(self, x: Tensor, lengths: Tensor, state: Tensor, gain: Tensor | None) -> Step:
        """Compute features.  gain: (b, t, 1), decibels per frame; None: no gain."""
        x = torch.cat([state, mask(x, lengths)], dim=1)  # (b, window - hop + s, 1)
        t = (x.shape[1] - self.window_size) // self.stride + 1 if x.shape[1] >= self.window_size else 0
        state = tail(x, lengths, self.window_size - self.stride)
        if t == 0:
            return Step(x.new_zeros(x.shape[0], 0, self.bank.shape[0]), lengths // self.stride, state)
        with torch.autocast(
            x.device.type, enabled=False
        ):  # powers span 10 decades: bfloat16 would drown the quiet ones
            frames = x[..., 0].unfold(1, self.window_size, self.stride) * self.window  # (b, t, window)
            spectrum = torch.fft.rfft(frames, self.n_fft)  # (b, t, f)
            power = torch.view_as_real(spectrum).square().sum(-1)
            if gain is not None:  # before FLOOR is added, which would drown quiet speech
                power = power * (10 ** (gain[:, :t] / 10))
            features = (F.linear(power, self.bank) + FLOOR).log()  # (b, t, m)
            features = (features - self.mean) / self.std
        return Step(features, lengths // self.stride, state)


def mel_filterbank(rate: int, n_fft: int, mels: int, low_hz: float, high_hz: float) -> Tensor:
    """Return (m, f) triangular filters of unit area on Slaney's mel scale, equal to `librosa.filters.mel` (tested).

    Computed here so that inference needs torch alone: librosa would bring numba and a compiler.  Always on the CPU: on the
    meta device, where weights are checked, torch would import its own compiler first, for seconds.
    """
    if not 0 <= low_hz < high_hz <= rate / 2:
        raise UserError(f"mel limits {low_hz} .. {high_hz} Hz must rise and lie within 0 .. {rate / 2} Hz")
    edges = _mel_edges(mels, low_hz, high_hz)
    bins = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64, device="cpu")
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    area = 2 / (edges[2:] - edges[:-2])[:, None]
    return (torch.minimum(rise, fall).clamp(min=0) * area).float()


def _mel_edges(mels: int, low_hz: float, high_hz: float) -> Tensor:
    """Return (m + 2,) Hz, float64.  Filter i rises from edge i to its center, edge i + 1, and falls to edge i + 2."""
    return _mel_to_hz(
        torch.linspace(_hz_to_mel(low_hz), _hz_to_mel(high_hz), mels + 2, dtype=torch.float64, device="cpu")
    )


def _hz_to_mel(hz: float) -> float:
    """Return mels on Slaney's scale (Auditory Toolbox, 1998): linear to 1000 Hz, logarithmic above."""
    return hz * 3 / 200 if hz < 1000 else 15 + math.log(hz / 1000) * 27 / math.log(6.4)


def _mel_to_hz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


class Statistics:
    """Mean and deviation of each mel, accumulated over batches."""

    def __init__(self, mels: int):
        self.count = 0
        self.sum = torch.zeros(mels, dtype=torch.float64)
        self.square = torch.zeros(mels, dtype=torch.float64)

    def add(self, features: Tensor, lengths: Tensor) -> None:
        """Add features (b, t, m), the first `lengths` (b,) frames of each row valid."""
        valid = features[valid_mask(lengths, features.shape[1])].double().cpu()  # (n, m)
        self.count += len(valid)
        self.sum += valid.sum(0)
        self.square += valid.square().sum(0)

    def result(self) -> tuple[Tensor, Tensor]:
        """Return mean (m,) and standard deviation (m,), float32."""
        mean = self.sum / max(self.count, 1)
        return mean.float(), (self.square / max(self.count, 1) - mean.square()).clamp(min=0).sqrt().float()
