"""Sequence mixers by name.  A new mixer is one file here, one line below, and one folder in `ops/`."""

from __future__ import annotations

from samba_asr.config import CausalMixerConfig, MixerConfig
from samba_asr.nn.blocks import BlockBidirectional, BlockModule, Unidirectional
from samba_asr.nn.mixers.hydra import Hydra
from samba_asr.nn.mixers.longvq import LongVq
from samba_asr.nn.mixers.mamba import Mamba
from samba_asr.nn.mixers.mamba2 import Mamba2
from samba_asr.nn.mixers.rnn import ParaGru, ParaLstm
from samba_asr.nn.mixers.s4 import S4, S4d
from samba_asr.registry import Registry

mixers = Registry("mixer")
mixers.register("mamba")(Mamba)
mixers.register("mamba2")(Mamba2)
mixers.register("hydra")(Hydra)
mixers.register("longvq")(LongVq)
mixers.register("s4")(S4)
mixers.register("s4d")(S4d)
mixers.register("paragru")(ParaGru)
mixers.register("paralstm")(ParaLstm)


def build_mixer(d_model: int, config: MixerConfig) -> BlockModule:
    """Build the mixer that `config` names, as a block module.

    With `config.bidirectional`, a second causal mixer with its own weights runs backward inside blocks: one of the same kind,
    unless the class names another (`backward_name`).
    """
    mixer = mixers.build(config.name, d_model, config)
    if isinstance(mixer, BlockModule):
        return mixer
    if isinstance(config, CausalMixerConfig) and config.bidirectional:
        back = getattr(mixer, "backward_name", config.name)
        return BlockBidirectional(mixer, mixers.build(back, d_model, config))
    return Unidirectional(mixer)


__all__ = ["S4", "Hydra", "LongVq", "Mamba", "Mamba2", "ParaGru", "ParaLstm", "S4d", "build_mixer", "mixers"]
