"""The recognizer's model: acoustic model, head, Mamba decoder.

Shapes: b batch, s samples, t encoder frames, d d_model, v vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from samba_asr.audio.features import LogMel
from samba_asr.config import ModelConfig
from samba_asr.errors import UserError
from samba_asr.models.acoustic import AcousticModel
from samba_asr.models.decoder import MambaDecoder
from samba_asr.models.heads import heads


class AsrModel(nn.Module):
    """The network: waveforms -> frames -> CTC log-probabilities, and a decoder if configured.

    Training losses are not part of it (samba_asr.training.objectives).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.vocab_size < 2:
            raise UserError(
                f"model.vocab_size {config.vocab_size} must be the tokenizer's: at least the blank and one token"
            )
        self.config = config
        self.acoustic = AcousticModel(config)
        self.ctc = heads.build(config.head, config.d_model, config.vocab_size)
        if config.skip_blanks:
            self.ctc.skip_blanks = config.skip_blanks
        decoder = config.decoder
        self.decoder = MambaDecoder(decoder, config.d_model, config.vocab_size) if decoder.layers else None

    @property
    def features(self) -> LogMel:
        return self.acoustic.features

    def log_probs(self, audio: Tensor, lengths: Tensor, *, block: int = -1) -> tuple[Tensor, Tensor]:
        """Return CTC log-probabilities (b, t, v) and lengths (b,) of utterances: audio (b, s), lengths (b,) in samples."""
        return self.ctc(*self.acoustic(audio.unsqueeze(-1), lengths, block))
