"""The whole configuration: a tree of frozen dataclasses, read from YAML and `key=value` overrides by OmegaConf.

    config = load([Path("small.yaml"), Path("mini_librispeech.yaml")], ["optim.lr=1e-3", "train.epochs=10"])
    config.model.d_model                       # an int, checked
    save(config, Path("exp/a/config.yaml"))    # reads back equal

model.py, training.py and decode.py define the sections with their defaults.  load.py reads and writes them.  renamed.py maps
the keys of version 1.
"""

from samba_asr.config.decode import (
    SEARCH_FILES,
    DecodeConfig,
    EndpointConfig,
    HotwordsConfig,
    RuntimeConfig,
    SearchConfig,
    SearchLmConfig,
    VadConfig,
    is_search_file,
)
from samba_asr.config.load import VERSION, VERSIONS, Config, find, load, save
from samba_asr.config.model import (
    MIXERS,
    CausalMixerConfig,
    DecoderConfig,
    FeatureConfig,
    HydraConfig,
    LmConfig,
    LongVqConfig,
    Mamba2Config,
    MambaConfig,
    MixerConfig,
    ModelConfig,
    ParaGruConfig,
    ParaLstmConfig,
    PronouncerConfig,
    PunctuationConfig,
    S4Config,
    S4dConfig,
    mixer_config,
)
from samba_asr.config.training import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    OptimConfig,
    PretrainConfig,
    TokenizerConfig,
    TrainConfig,
)

__all__ = [
    "MIXERS",
    "SEARCH_FILES",
    "VERSION",
    "VERSIONS",
    "AugmentConfig",
    "CausalMixerConfig",
    "Config",
    "DataConfig",
    "DecodeConfig",
    "DecoderConfig",
    "EndpointConfig",
    "FeatureConfig",
    "HotwordsConfig",
    "HydraConfig",
    "LmConfig",
    "LongVqConfig",
    "LossConfig",
    "Mamba2Config",
    "MambaConfig",
    "MixerConfig",
    "ModelConfig",
    "OptimConfig",
    "ParaGruConfig",
    "ParaLstmConfig",
    "PretrainConfig",
    "PronouncerConfig",
    "PunctuationConfig",
    "RuntimeConfig",
    "S4Config",
    "S4dConfig",
    "SearchConfig",
    "SearchLmConfig",
    "TokenizerConfig",
    "TrainConfig",
    "VadConfig",
    "find",
    "is_search_file",
    "load",
    "mixer_config",
    "save",
]
