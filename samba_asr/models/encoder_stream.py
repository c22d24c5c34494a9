"""One session's audio, of any rate and in chunks of any length, to encoder frames."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from samba_asr.audio.resample import Resampler
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel

MAX_CHUNK = 10.0
"""Seconds of audio that go through the model in one step: longer input is cut, to bound memory."""


class Framer:
    """Samples of any rate, in chunks of any length, to whole encoder frames of samples at the model's rate."""

    def __init__(self, rate: int, target: int, stride: int):
        """rate, target: samples a second that come and that the model hears.  stride: samples of an encoder frame."""
        self.rate, self.stride = rate, stride
        self._resampler = Resampler(rate, target)
        self._rest = np.zeros(0, np.float32)  # samples that do not fill an encoder frame yet
        self._heard = 0  # samples at the input's rate

    @property
    def seconds(self) -> float:
        """Of audio heard."""
        return self._heard / self.rate

    def accept(self, samples: np.ndarray) -> np.ndarray:
        """Hear more: float32 (s,) in [-1, 1], any length.  UserError, and nothing heard, if a sample is not finite."""
        samples = checked(samples, self._heard, self.rate)
        self._heard += len(samples)
        return self._whole(self._resampler.step(samples))

    def finish(self) -> np.ndarray:
        """The end of the audio.  The last frame is filled with silence, so that no sample goes unheard."""
        whole = self._whole(self._resampler.finish())
        if not len(self._rest):
            return whole
        return np.concatenate([whole, self._whole(np.zeros(self.stride - len(self._rest), np.float32))])

    def _whole(self, samples: np.ndarray) -> np.ndarray:
        self._rest = np.concatenate([self._rest, samples])
        n = len(self._rest) // self.stride * self.stride
        whole, self._rest = self._rest[:n], self._rest[n:]
        return whole


class EncoderStream:
    """`accept` audio, then `finish` once; both return the frames that have become known, as (1, t, d) and their number (1,)."""

    def __init__(self, model: AsrModel, rate: int, block: int):
        """rate: samples a second of what comes.  block: frames in a block, -1 for the model's longest."""
        weight = model.ctc.linear.weight
        self.model = model
        self._framer = Framer(rate, model.config.features.sample_rate, model.acoustic.stride)
        self._device, self._dtype = weight.device, weight.dtype
        self._state = model.acoustic.init_state(1, block=block, device=weight.device, dtype=weight.dtype)

    @property
    def seconds(self) -> float:
        """Of audio heard."""
        return self._framer.seconds

    def accept(self, samples: np.ndarray) -> list[tuple[Tensor, Tensor]]:
        """Hear more: float32 (s,) in [-1, 1], any length.  UserError, and nothing heard, if a sample is not finite."""
        return self._run(self._framer.accept(samples))

    def finish(self) -> list[tuple[Tensor, Tensor]]:
        """The end of the audio."""
        frames = self._run(self._framer.finish())
        with torch.inference_mode():
            return [*frames, self.model.acoustic.finish(self._state)]

    def _run(self, samples: np.ndarray) -> list[tuple[Tensor, Tensor]]:
        """Through the model, at most MAX_CHUNK of it at a time."""
        stride = self.model.acoustic.stride
        most = int(MAX_CHUNK * self.model.config.features.sample_rate) // stride * stride
        found = []
        with torch.inference_mode():
            for begin in range(0, len(samples), most):
                chunk = torch.from_numpy(samples[begin : begin + most]).to(self._device, self._dtype)
                lengths = torch.tensor([len(chunk)], device=self._device)
                frames, lengths, self._state = self.model.acoustic.step(chunk[None, :, None], lengths, self._state)
                if frames.shape[1]:
                    found.append((frames, lengths))
        return found


def checked(samples: np.ndarray, heard: int, rate: int) -> np.ndarray:
    """`samples` as float32 (s,); UserError, that says where behind the `heard` ones, if one is not finite."""
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1:
        raise UserError(f"audio of shape {samples.shape}: mix it to one channel, shape (samples,)")
    if not np.isfinite(samples).all():
        at = int(np.flatnonzero(~np.isfinite(samples))[0]) + heard
        raise UserError(f"sample {at} ({at / rate:.3f} s) is not a finite number")
    return samples
