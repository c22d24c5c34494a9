"""The acoustic model: from a waveform to encoder frames.

Log-mel features, subsampling and the encoder, each a streaming module, so the whole is one.
Shapes: b batch, s samples, t encoder frames, d d_model.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor

from samba_asr.audio.features import LogMel
from samba_asr.config import ModelConfig
from samba_asr.models.encoder import Encoder, EncoderState
from samba_asr.nn.front import build_front
from samba_asr.streaming import Stack, State, Step, StreamingModule


class AcousticState(NamedTuple):
    """State of the acoustic model."""

    front: State  # of features and subsampling
    encoder: EncoderState


class AcousticModel(StreamingModule):
    """Waveform (b, s, 1) -> encoder frames (b, s / stride, d)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.front = Stack(LogMel(config.features), build_front(config))
        self.encoder = Encoder(config)
        self.stride = self.front.stride

    def init_state(
        self,
        batch,
        *,
        block: int | Tensor = -1,
        hop: int | Tensor | None = None,
        capacity: int | None = None,
        device=None,
        dtype=None,
    ):
        return AcousticState(
            self.front.init_state(batch, device=device, dtype=dtype),
            self.encoder.init_state(batch, block=block, hop=hop, capacity=capacity, device=device, dtype=dtype),
        )

    def step(
        self, x: Tensor, lengths: Tensor, state: AcousticState, gap: Tensor | None = None, missing: Tensor | None = None
    ) -> Step:
        """Process x (b, s, 1) with lengths (b,) in samples, multiples of `stride`, the samples per encoder frame.

        gap: (b,) encoder frames of audio that is missing before x, default none; it is ignored for rows of length 0.  The front
            end joins what lies around a gap.
        missing: (b, s) bool, samples that are missing inside x, such as a lost packet; default none.  Their features are hidden,
            as SpecAugment hides features in training.
        """
        if missing is None:
            x, lengths, front = self.front.step(x, lengths, state.front)
        else:
            x, lengths, front = self._hide(x, lengths, state.front, missing)
        gaps = None
        if gap is not None:
            gaps = F.pad(gap[:, None].to(x.dtype), (0, x.shape[1]))[:, : x.shape[1]]  # (b, t)
        x, lengths, encoder = self.encoder.step(x, lengths, state.encoder, gaps)
        return Step(x, lengths, AcousticState(front, encoder))

    def _hide(self, x: Tensor, lengths: Tensor, state: State, missing: Tensor) -> Step:
        """Run the front end on x (b, s, 1), with 0, the mean, for features of missing samples (b, s)."""
        of_features, of_subsampling = state
        x, lengths, of_features = self.features.step(x.masked_fill(missing[..., None], 0), lengths, of_features)
        hop = self.features.stride
        hidden = missing[:, : x.shape[1] * hop].unflatten(1, (-1, hop)).any(2)  # (b, t)
        x, lengths, of_subsampling = self.subsampling.step(x.masked_fill(hidden[..., None], 0), lengths, of_subsampling)
        return Step(x, lengths, (of_features, of_subsampling))

    def finish(self, state: AcousticState) -> tuple[Tensor, Tensor]:
        return self.encoder.finish(state.encoder)

    def pause(self, state: AcousticState) -> Step:
        """Emit the frames that wait for more audio, and return the state for the audio after a pause; see `Encoder.pause`."""
        y, lengths, encoder = self.encoder.pause(state.encoder)
        return Step(y, lengths, AcousticState(state.front, encoder))

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        block: int | Tensor = -1,
        hop: int | Tensor | None = None,
        gap: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Process whole utterances x (b, s, 1).  gap: (b, t) encoder frames of audio that is missing before each frame."""
        return self.encoder(*self.front(x, lengths), block, hop, gap)

    @property
    def features(self) -> LogMel:
        """Waveform -> normalized log-mel."""
        return cast("LogMel", self.front.layers[0])

    @property
    def subsampling(self) -> Stack:
        """Log-mel at 100 frames per second -> frames of d_model, model.subsampling times fewer."""
        return cast("Stack", self.front.layers[1])
