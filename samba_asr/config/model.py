"""Configuration of the networks: `model.*`, and the language model's `lm.*`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from samba_asr.errors import UserError

DERIVED = {"model.teacher": "data.teacher", "model.vocab_size": "the tokenizer"}
"""Derived keys, which a user cannot set, and what determines each."""


@dataclass(frozen=True)
class FeatureConfig:
    """Log-mel front end (samba_asr.audio.features)."""

    sample_rate: int = 16000  # Hz
    window: int = 400  # samples per frame (25 ms)
    hop: int = 160  # samples between frames (10 ms)
    mels: int = 80  # number of filters
    low_hz: float = 20.0
    high_hz: float = 7600.0
    gain: bool = (
        False  # bring speech of any level to that of the training data (samba_asr.audio.level); works with any weights
    )

    def __post_init__(self):
        # Filters and window are built before any weight is read, so their sizes are bounded here.
        for name, most in (("sample_rate", 768_000), ("window", 65_536), ("hop", 65_536), ("mels", 1024)):
            if not 1 <= getattr(self, name) <= most:
                raise UserError(f"model.features.{name}={getattr(self, name)}: from 1 to {most}")


@dataclass(frozen=True)
class MixerConfig:
    """Sequence mixer (samba_asr.nn.mixers).  Each kind has its own fields, named as in state-spaces/mamba."""

    name: str = ""


@dataclass(frozen=True)
class CausalMixerConfig(MixerConfig):
    """A mixer that runs forward in time."""

    bidirectional: bool = True  # add a second mixer, with its own weights, that runs backward inside blocks
    d_conv: int = 4  # kernel size of the short convolution
    expand: int = 2  # d_inner = expand * d_model
    dt_min: float = 0.001  # smallest initial step, 1 / frames: 1000 frames of 40 ms are 40 s
    dt_max: float = 1.0  # largest initial step: one frame


@dataclass(frozen=True)
class MambaConfig(CausalMixerConfig):
    """S6 (samba_asr.nn.mixers.mamba)."""

    name: str = "mamba"
    d_state: int = 32  # n, state size per channel
    init: str = ""  # initial A: real (also "") | lin | inv | legs: d_state / 2 complex pairs (samba_asr.ops.spectrum)


@dataclass(frozen=True)
class S4Config(CausalMixerConfig):
    """S4, diagonal plus low rank (samba_asr.nn.mixers.s4)."""

    name: str = "s4"
    d_state: int = 32  # n, state size per channel
    headdim: int = (
        16  # channels that share a state matrix; the heads' steps are an even grid from dt_min to dt_max, 0.1 at most
    )
    init: str = ""  # initial state matrix: legs (also "") | legt | fout (samba_asr.ops.spectrum)


@dataclass(frozen=True)
class S4dConfig(CausalMixerConfig):
    """S4D, diagonal (samba_asr.nn.mixers.s4)."""

    name: str = "s4d"
    d_state: int = 32  # n, state size per channel
    headdim: int = 16  # as for s4
    init: str = ""  # initial eigenvalues: lin (also "") | inv | legs | real (samba_asr.ops.spectrum)


@dataclass(frozen=True)
class Mamba2Config(CausalMixerConfig):
    """SSD (samba_asr.nn.mixers.mamba2)."""

    name: str = "mamba2"
    d_state: int = 32  # n, state size per channel
    headdim: int = 32  # p, channels per SSD head
    a_max: float = 16.0  # the heads' decays A are initialized between -1 and -a_max


@dataclass(frozen=True)
class LongVqConfig(Mamba2Config):
    """Mamba-2 with a vector-quantized memory (samba_asr.nn.mixers.longvq); backward inside blocks it is Mamba-2 alone."""

    name: str = "longvq"
    codes: int = 64  # s, of the memory: kinds of sounds that it tells apart


@dataclass(frozen=True)
class ParaGruConfig(CausalMixerConfig):
    """Gated recurrent unit with diagonal recurrent weights (samba_asr.nn.mixers.rnn)."""

    name: str = "paragru"
    headdim: int = 32  # channels of a block of the input matrix


@dataclass(frozen=True)
class ParaLstmConfig(CausalMixerConfig):
    """Long short-term memory with diagonal recurrent weights (samba_asr.nn.mixers.rnn)."""

    name: str = "paralstm"
    headdim: int = 32  # channels of a block of the input matrix


@dataclass(frozen=True)
class HydraConfig(MixerConfig):
    """Quasiseparable mixer, bidirectional by design (samba_asr.nn.mixers.hydra)."""

    name: str = "hydra"
    d_state: int = 32  # n, state size per channel
    d_conv: int = 4  # kernel size of the short convolution
    expand: int = 2  # d_inner = expand * d_model
    headdim: int = 32  # p, channels per SSD head
    dt_min: float = 0.001  # smallest initial step, 1 / frames: 1000 frames of 40 ms are 40 s
    dt_max: float = 1.0  # largest initial step: one frame
    a_max: float = 16.0  # the heads' decays A are initialized between -1 and -a_max; Hydra's authors use 1


MIXERS: dict[str, type[MixerConfig]] = {
    "hydra": HydraConfig,
    "longvq": LongVqConfig,
    "mamba": MambaConfig,
    "mamba2": Mamba2Config,
    "paragru": ParaGruConfig,
    "paralstm": ParaLstmConfig,
    "s4": S4Config,
    "s4d": S4dConfig,
}


def mixer_config(name: str, **values: Any) -> MixerConfig:
    """Return the configuration of the mixer of this name; UserError for an unknown name."""
    if name not in MIXERS:
        raise UserError(f"model.mixer.name={name}: use one of {', '.join(MIXERS)}")
    return MIXERS[name](**values)


@dataclass(frozen=True)
class DecoderConfig:
    """Mamba decoder with the attention-free cross-connection (samba_asr.models.decoder)."""

    layers: int = 0  # 0: no decoder, CTC alone
    d_model: int = 144
    d_state: int = 64  # larger than the encoder's: one state must hold the whole utterance
    expand: int = 2
    headdim: int = 32
    dropout: float = 0.1


@dataclass(frozen=True)
class ModelConfig:
    """Encoder and heads (samba_asr.models)."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    subsampling: int = 4  # feature frames per encoder frame, a power of 2: 4 gives 40 ms, 8 gives 80 ms
    subsampling_channels: int = 32  # of its convolutions, each of stride 2
    front: str = "conv"  # conv | chimera: a 2-D SSM over time and bands after these convolutions (samba_asr.nn.front)
    d_model: int = 144
    layers: int = 8
    ffn_expand: int = 2  # width of each half feed-forward, as a multiple of d_model
    conv_kernel: int = 31  # of the convolution module: half sees the past, half sees ahead inside the block
    dropout: float = 0.1
    mixer: MixerConfig = field(default_factory=HydraConfig)
    head: str = "ctc"  # computes the log-probabilities of encoder frames (samba_asr.models.heads)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    blocks: tuple[int, ...] = (4, 8, 16, 32, 64)  # block sizes in frames that training draws from
    full_block: float = 0.5  # probability that a training utterance is one block instead
    max_block: int = 512  # "offline": the largest block, in frames (of 40 ms: 20.48 s), so that memory is bounded
    self_conditioning: tuple[int, ...] = ()  # layers, from 1, after which CTC predicts and conditions the layers above
    skip_blanks: float = 0.0  # in inference the layers above the last of these skip frames so sure to be blank; 0: none
    rates: tuple[int, ...] = ()  # frames in a step of each layer, such as [1, 2, 4, 4, 2, 1]; (): 1 everywhere
    fusion: bool = (
        False  # heads read a weighted sum of the outputs of all layers, not only the last (samba_asr.nn.fusion)
    )
    # Derived, not settings (`DERIVED`):
    teacher: int = 0  # channels of the frames in data.teacher
    vocab_size: int = 0  # of the tokenizer

    @property
    def frame_ms(self) -> float:
        """Duration of an encoder frame, in milliseconds."""
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
class PunctuationConfig:
    """Punctuation and case (samba_asr.models.punctuator), and its training text."""

    words: int = 16_000  # frequent words with an embedding of their own
    hashes: int = 4096  # embeddings that prefixes and suffixes share
    d_embedding: int = 96
    layers: int = 2
    d_model: int = 128
    d_state: int = 16
    headdim: int = 64
    ffn_expand: int = 2
    dropout: float = 0.05
    blocks: tuple[int, ...] = (8, 16, 32)  # block sizes in words that training draws from: segments of speech
    full_block: float = 0.4  # probability that a training window is one block instead
    window: int = 96  # words
    batch_words: float = 3072.0  # words in one batch of one process
    windows: int = 4096  # per epoch
    pauses: float = 0.5  # probability that a training window has pauses; without, text alone must do


@dataclass(frozen=True)
class LmConfig:
    """Mamba language model (samba_asr.models.lm), and its training text."""

    layers: int = 4
    d_model: int = 256
    d_state: int = 64
    expand: int = 2
    headdim: int = 64
    ffn_expand: int = 4
    dropout: float = 0.1
    experts: int = 0  # feed-forwards in each layer, of which each unit uses one; 0: one feed-forward, for all units
    balance: float = 0.01  # weight of the loss that keeps all experts in use
    memory: int = 0  # half keys of a memory after the last layer, of memory^2 values (128: 16,384); 0: none
    longest: int = 200  # units; longer lines are left out
    lines: int = 100_000  # lines per epoch
    batch_units: float = 4096.0  # padded units in one batch of one process

    def __post_init__(self):
        for name, most in (("experts", 256), ("memory", 1024)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"lm.{name}={getattr(self, name)}: from 0 (none) to {most}")
