"""The smallest model that has every part of a real one: 16 samples a frame, 8 channels, 5 units."""

from __future__ import annotations

import torch

from samba_asr.config import DecoderConfig, FeatureConfig, ModelConfig, mixer_config
from samba_asr.data.dataset import Batch

FRAME = 16  # samples that become one encoder frame


def tiny(mixer: str = "hydra", *, decoder: int = 0, layers: int = 2, **changes) -> ModelConfig:
    return ModelConfig(
        features=FeatureConfig(sample_rate=1000, window=10, hop=4, mels=4, low_hz=10, high_hz=450),
        d_model=8,
        layers=layers,
        conv_kernel=5,
        mixer=mixer_config(mixer, d_state=3, **({} if mixer == "mamba" else {"headdim": 4})),
        decoder=DecoderConfig(layers=decoder, d_model=8, d_state=3, headdim=4),
        **{"blocks": (2, 4), "max_block": 6, "vocab_size": 5, "subsampling_channels": 2, **changes},
    )


def noise(*shape, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch() -> Batch:
    """Three utterances of 12, 9 and 7 frames, with 3, 1 and 2 tokens."""
    return Batch(
        audio=noise(3, 12 * FRAME),
        lengths=torch.tensor([12, 9, 7]) * FRAME,
        tokens=torch.tensor([[2, 2, 3], [4, 0, 0], [3, 1, 0]]),
        token_lengths=torch.tensor([3, 1, 2]),
        ids=["a", "b", "c"],
    )
