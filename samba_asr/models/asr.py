"""The recogniser's model: acoustic model, CTC head, Mamba decoder.

Shapes: b batch, s samples, t encoder frames, d d_model, v vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samba_asr.audio.features import LogMel
from samba_asr.config import ModelConfig
from samba_asr.errors import UserError
from samba_asr.models.decoder import MambaDecoder
from samba_asr.models.encoder import AcousticModel
from samba_asr.streaming import Step, StreamingModule, mask


class CtcHead(StreamingModule):
    """Encoder frames (b, t, d) -> log-probabilities (b, t, v) of the blank (0) and the tokens, float32 or wider."""

    def __init__(self, d_model: int, vocab_size: int):
        super().__init__()
        self.linear = nn.Linear(d_model, vocab_size)

    def init_state(self, batch, *, device=None, dtype=None):
        return ()

    def step(self, x, lengths, state):
        logits = self.linear(mask(x, lengths))
        return Step(logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)), lengths, state)


class AsrModel(nn.Module):
    """Waveforms -> frames -> CTC log-probabilities, with a decoder beside the CTC head if there is one.

    It is the net alone: what it is trained for are objectives (samba_asr.training.objectives).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.vocab_size < 2:
            raise UserError(
                f"model.vocab_size {config.vocab_size} must be the tokenizer's: at least blank and one token"
            )
        self.config = config
        self.acoustic = AcousticModel(config)
        self.ctc = CtcHead(config.d_model, config.vocab_size)
        decoder = config.decoder
        self.decoder = MambaDecoder(decoder, config.d_model, config.vocab_size) if decoder.layers else None

    @property
    def features(self) -> LogMel:
        return self.acoustic.features

    def log_probs(self, audio: Tensor, lengths: Tensor, *, block: int = -1) -> tuple[Tensor, Tensor]:
        """CTC log-probabilities (b, t, v) and lengths (b,) of whole utterances: audio (b, s), lengths (b,) in samples."""
        return self.ctc(*self.acoustic(audio.unsqueeze(-1), lengths, block))
