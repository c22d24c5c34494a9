"""Runtime that runs the model by torch; on a GPU with CUDA graphs for live steps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samba_asr.models.acoustic import AcousticState
from samba_asr.models.asr import AsrModel
from samba_asr.ops.device import wants_triton
from samba_asr.runtime.base import AcousticRuntime, Frames, Latency
from samba_asr.runtime.graphs import LayerGraphs
from samba_asr.streaming import map_state, stack_rows


class TorchRuntime(AcousticRuntime):
    """A model in torch, on any device."""

    takes_gaps = True

    def __init__(self, model: AsrModel):
        """model: in evaluation mode.  Its weights must not be moved or replaced afterwards."""
        weight = next(model.ctc.parameters())
        self.model, self.device, self.dtype = model, weight.device, weight.dtype
        self.rate, self.stride = model.config.features.sample_rate, model.acoustic.stride
        self.max_block = model.config.max_block
        self.second_pass = model.decoder
        encoder = model.acoustic.encoder
        if weight.is_cuda and wants_triton(weight.device, weight.dtype) and encoder.recordable:
            encoder.live_step = LayerGraphs(encoder.one_block)

    @property
    def frame(self) -> float:
        return self.stride / self.rate

    @torch.inference_mode()
    def start(self, latency: Latency) -> AcousticState:
        return self.model.acoustic.init_state(
            1, block=latency.block, hop=latency.hop, device=self.device, dtype=self.dtype
        )

    @torch.inference_mode()
    def step(
        self, audio: Sequence[np.ndarray], states: Sequence[Any], gaps: Sequence[float] | None = None
    ) -> tuple[Frames, list[Any]]:
        padded = torch.zeros(len(audio), max(map(len, audio)))  # (b, s)
        for row, samples in enumerate(audio):
            padded[row, : len(samples)] = torch.from_numpy(samples)
        lengths = torch.tensor([len(samples) for samples in audio], device=self.device)
        x = padded.to(self.device, self.dtype).unsqueeze(-1)
        lost = padded.isnan()  # on the CPU, where looking costs nothing
        missing = lost.to(self.device) if bool(lost.any()) else None
        gap = torch.tensor(gaps, device=self.device, dtype=self.dtype) if gaps and any(gaps) else None
        return self._split(*self.model.acoustic.step(x, lengths, _rows(states), gap, missing))

    @torch.inference_mode()
    def pause(self, states: Sequence[Any]) -> tuple[Frames, list[Any]]:
        return self._split(*self.model.acoustic.pause(_rows(states)))

    def _split(self, frames: Tensor, lengths: Tensor, state: AcousticState) -> tuple[Frames, list[Any]]:
        rows = len(lengths)
        # Slices and copies: an index of one row would cost five times as much, for some 30 leaves of each session.
        one = lambda row: map_state(lambda leaf: leaf[row : row + 1].clone(), state)  # noqa: E731
        states = [state] if rows == 1 else [one(row) for row in range(rows)]
        return self._frames(frames, lengths), states

    @torch.inference_mode()
    def finish(self, states: Sequence[Any]) -> Frames:
        return self._frames(*self.model.acoustic.finish(_rows(states)))

    @torch.inference_mode()
    def forward(self, audio: Tensor, lengths: Tensor, latency: Latency) -> Frames:
        x = audio.to(self.device, self.dtype).unsqueeze(-1)
        return self._frames(*self.model.acoustic(x, lengths.to(self.device), latency.block, latency.hop))

    def _frames(self, frames: Tensor, lengths: Tensor) -> Frames:
        log_probs = self.model.ctc(frames, lengths)[0]
        wide = frames if frames.dtype == torch.float64 else frames.float()  # numpy has no bfloat16
        return Frames(wide.cpu().numpy(), log_probs.cpu().numpy(), lengths.cpu().numpy())

    def in_float64(self) -> TorchRuntime:
        """Return a runtime with the same weights in float64, for checks in which rounding must not matter."""
        return TorchRuntime(copy.deepcopy(self.model).double())


def _rows(states: Sequence[AcousticState]) -> AcousticState:
    """One state with the rows of all; a single one as it is, for copying its tensors twice costs 2 % of a live step."""
    return states[0] if len(states) == 1 else stack_rows(states)
