"""Front ends by name (model.front): the layers between features and encoder.  A new one is a function here.

A front end is built from the model's configuration.  It is a sequence of streaming modules that turn `model.subsampling` frames
of `model.features.mels` values into one of d_model, causally and without latency.
"""

from __future__ import annotations

from samba_asr.config import ModelConfig
from samba_asr.nn.chimera import Chimera2d
from samba_asr.nn.conv import subsampling
from samba_asr.registry import Registry
from samba_asr.streaming import Stack, StreamingModule

fronts = Registry("front end")


def build_front(config: ModelConfig) -> Stack:
    """Build the front end that `config` names.  UserError for an unknown name, or for sizes that do not fit."""
    return Stack(*fronts.build(config.front, config))


@fronts.register("conv")
def _conv(config: ModelConfig) -> tuple[StreamingModule, ...]:
    """Convolutions over time and mel, and a projection."""
    return subsampling(
        config.features.mels, config.subsampling_channels, config.d_model, config.dropout, config.subsampling
    )


@fronts.register("chimera")
def _chimera(config: ModelConfig) -> tuple[StreamingModule, ...]:
    """The same with a two-dimensional state space model over time and bands before the projection."""
    *convolutions, project = _conv(config)
    bands = config.features.mels // config.subsampling
    return (*convolutions, Chimera2d(bands, config.subsampling_channels), project)
