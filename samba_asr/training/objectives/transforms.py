"""Augmentation of features as lists of transforms, which an objective applies in order.

Shapes: b utterances, t frames, m mels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from samba_asr.audio.augment import equalize, spec_augment, vocal_tract_length
from samba_asr.audio.features import LogMel
from samba_asr.config import AugmentConfig

Transform = Callable[[Tensor, Tensor, "torch.Generator | None", LogMel], Tensor]
"""Normalized log-mel (b, t, m), lengths (b,) on the CPU, the source of random draws, the front end -> features as given."""


def apply(
    transforms: Sequence[Transform], features: Tensor, lengths: Tensor, generator: torch.Generator | None, front: LogMel
) -> Tensor:
    """Apply all transforms in order."""
    for transform in transforms:
        features = transform(features, lengths, generator, front)
    return features


def voice_transforms(config: AugmentConfig) -> list[Transform]:
    """Return transforms that imitate other voices.  None masks a part of the speech."""

    def vocal_tract(features, lengths, generator, front):
        return vocal_tract_length(features, generator, spread=config.vocal_tract, centers=front.centers)

    return [vocal_tract] if config.vocal_tract else []


def speech_transforms(config: AugmentConfig) -> list[Transform]:
    """Return transforms that imitate other voices, microphones and rooms, then SpecAugment."""

    def equalizer(features, lengths, generator, front):
        return equalize(features, generator, most_db=config.equalizer_db, scale=front.std)

    def masks(features, lengths, generator, front):
        return spec_augment(
            features,
            lengths,
            generator,
            time_masks=config.time_masks,
            time_width=config.time_width,
            time_ratio=config.time_ratio,
            freq_masks=config.freq_masks,
            freq_width=config.freq_width,
        )

    return [*voice_transforms(config), *([equalizer] if config.equalizer_db else []), masks]
