"""Configuration of the networks: `model.*`, and the language model's `lm.*`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from samba_asr.errors import UserError

DERIVED = {"model.teacher": "data.teacher", "model.vocab_size": "the tokenizer"}
"""Keys that follow from something else, which a user cannot set."""


@dataclass(frozen=True)
class FeatureConfig:
    """Log-mel front end (samba_asr.audio.features)."""

    sample_rate: int = 16000  # Hz
    window: int = 400  # samples in a frame (25 ms)
    hop: int = 160  # samples between frames (10 ms)
    mels: int = 80  # filters
    low_hz: float = 20.0
    high_hz: float = 7600.0
    gain: bool = (
        False  # bring speech of any level to that of the training data (samba_asr.audio.level); goes with any weights
    )


@dataclass(frozen=True)
class MixerConfig:
    """Sequence mixer (samba_asr.nn.mixers): each has its own fields, with names as in state-spaces/mamba."""

    name: str = ""


@dataclass(frozen=True)
class CausalMixerConfig(MixerConfig):
    """A mixer that runs forward in time."""

    bidirectional: bool = True  # a second one, with weights of its own, reads backward inside blocks
    d_state: int = 32  # n, state size of a channel
    d_conv: int = 4  # kernel of the short convolution
    expand: int = 2  # d_inner = expand * d_model
    dt_min: float = 0.001  # smallest initial step, 1 / frames: 1000 frames of 40 ms are 40 s
    dt_max: float = 1.0  # largest initial step: one frame


@dataclass(frozen=True)
class MambaConfig(CausalMixerConfig):
    """S6 (samba_asr.nn.mixers.mamba)."""

    name: str = "mamba"


@dataclass(frozen=True)
class Mamba2Config(CausalMixerConfig):
    """SSD (samba_asr.nn.mixers.mamba2)."""

    name: str = "mamba2"
    headdim: int = 32  # p, channels of one SSD head
    a_max: float = 16.0  # decays A of the heads begin within -1 and minus this


@dataclass(frozen=True)
class HydraConfig(MixerConfig):
    """Quasiseparable mixer, bidirectional by itself (samba_asr.nn.mixers.hydra)."""

    name: str = "hydra"
    d_state: int = 32  # n, state size of a channel
    d_conv: int = 4  # kernel of the short convolution
    expand: int = 2  # d_inner = expand * d_model
    headdim: int = 32  # p, channels of one SSD head
    dt_min: float = 0.001  # smallest initial step, 1 / frames: 1000 frames of 40 ms are 40 s
    dt_max: float = 1.0  # largest initial step: one frame
    a_max: float = 16.0  # decays A of the heads begin within -1 and minus this; 1, as Hydra's authors have it


MIXERS: dict[str, type[MixerConfig]] = {"hydra": HydraConfig, "mamba": MambaConfig, "mamba2": Mamba2Config}


def mixer_config(name: str, **values: Any) -> MixerConfig:
    """The configuration of the mixer of this name; UserError if there is none."""
    if name not in MIXERS:
        raise UserError(f"model.mixer.name={name}: there are {', '.join(MIXERS)}")
    return MIXERS[name](**values)


@dataclass(frozen=True)
class DecoderConfig:
    """Mamba decoder with the attention-free cross-connection (samba_asr.models.decoder)."""

    layers: int = 0  # 0: no decoder, CTC alone
    d_model: int = 144
    d_state: int = 64  # the one state that must hold the utterance: larger than the encoder's
    expand: int = 2
    headdim: int = 32
    dropout: float = 0.1


@dataclass(frozen=True)
class ModelConfig:
    """Encoder and heads (samba_asr.models)."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    subsampling: int = 4  # feature frames in an encoder frame, a power of 2: 4 are 40 ms, 8 are 80 ms
    subsampling_channels: int = 32  # of its convolutions, each of stride 2
    d_model: int = 144
    layers: int = 8
    ffn_expand: int = 2  # width of each half feed-forward over d_model
    conv_kernel: int = 31  # of the convolution module: half past, half inside-the-block future
    dropout: float = 0.1
    mixer: MixerConfig = field(default_factory=HydraConfig)
    head: str = "ctc"  # what makes log-probabilities of encoder frames (samba_asr.models.heads)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    blocks: tuple[int, ...] = (4, 8, 16, 32, 64)  # block sizes in frames that training draws from, beside full
    full_block: float = 0.5  # probability that training sees the whole utterance as one block
    max_block: int = 512  # "offline": the largest block, in frames (of 40 ms: 20.48 s), so that memory is bounded
    self_conditioning: tuple[int, ...] = ()  # layers, from 1, behind which CTC reads, and tells the layers above what
    # Derived, and no settings (`DERIVED`):
    teacher: int = 0  # channels of the frames in data.teacher
    vocab_size: int = 0  # of the tokenizer

    @property
    def frame_ms(self) -> float:
        """Milliseconds of an encoder frame."""
        return 1000 * self.features.hop * self.subsampling / self.features.sample_rate


@dataclass(frozen=True)
class PronouncerConfig:
    """Letters to sounds (samba_asr.models.pronouncer)."""

    layers: int = 2
    d_model: int = 96
    d_state: int = 16
    headdim: int = 48
    ffn_expand: int = 3
    dropout: float = 0.05
    batch_letters: float = 1024.0  # padded letters in a batch of one process


@dataclass(frozen=True)
class LmConfig:
    """Mamba language model (samba_asr.models.lm), and the text it learns from."""

    layers: int = 4
    d_model: int = 256
    d_state: int = 64
    expand: int = 2
    headdim: int = 64
    ffn_expand: int = 4
    dropout: float = 0.1
    longest: int = 200  # units of a line; longer ones are left out
    lines: int = 100_000  # of an epoch
    batch_units: float = 4096.0  # padded units in a batch of one process
