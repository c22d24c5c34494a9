"""The whole configuration: a tree of frozen dataclasses, read from YAML and `key=value` overrides by OmegaConf.

    config = load([Path("small.yaml"), Path("mini_librispeech.yaml")], ["optim.lr=1e-3", "train.epochs=10"])
    config.model.d_model                       # an int, checked
    save(config, Path("exp/a/config.yaml"))    # reads back equal

Later files win over earlier ones, overrides over files.  An unknown key, a wrong type or a missing file is a `UserError`
that names the key and the nearest known one.

A configuration names files: `decode.lm` and the others of `SEARCH_FILES`.  What a user gives by hand, in files or overrides, is
relative to the current folder, and so becomes absolute here.  A name that stays relative is one in the model's own folder.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from samba_asr.errors import UserError

SEARCH_FILES = ("lm", "words", "lexicon", "hotwords", "neural_lm")
"""Keys of `DecodeConfig` that name a file, or the folder of a language model."""

VERSION = 1
"""Version of the configuration and of the model folder; a folder of another version is refused by name."""


@dataclass(frozen=True)
class FeatureConfig:
    """Log-mel front end (samba_asr.audio.features)."""

    sample_rate: int = 16000  # Hz
    window: int = 400  # samples in a frame (25 ms)
    hop: int = 160  # samples between frames (10 ms)
    mels: int = 80  # filters
    low_hz: float = 20.0
    high_hz: float = 7600.0


@dataclass(frozen=True)
class MixerConfig:
    """Sequence mixer (samba_asr.nn.mixers), names as in state-spaces/mamba."""

    name: str = "hydra"  # mamba | mamba2 | hydra
    bidirectional: bool = True  # wrap a causal mixer (mamba, mamba2) to read backwards inside blocks; hydra always does
    d_state: int = 32  # n, state size of a channel
    d_conv: int = 4  # kernel of the short convolution
    expand: int = 2  # d_inner = expand * d_model
    headdim: int = 32  # p, channels of one SSD head (mamba2, hydra)
    dt_min: float = 0.001  # smallest initial step, 1 / frames: 1000 frames of 40 ms are 40 s
    dt_max: float = 1.0  # largest initial step: one frame, 40 ms
    a_max: float = (
        16.0  # mamba2, hydra: decays A of the heads begin within -1 and minus this; 1, as Hydra's authors have it
    )


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
    mixer: MixerConfig = field(default_factory=MixerConfig)
    head: str = "ctc"  # what makes log-probabilities of encoder frames (samba_asr.models.heads)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    blocks: tuple[int, ...] = (4, 8, 16, 32, 64)  # block sizes in frames that training draws from, beside full
    full_block: float = 0.5  # probability that training sees the whole utterance as one block
    max_block: int = 512  # "offline": the largest block, in frames (of 40 ms: 20.48 s), so that memory is bounded
    self_conditioning: tuple[int, ...] = ()  # layers, from 1, behind which CTC reads, and tells the layers above what
    teacher: int = 0  # channels of a teacher's frames, which a head tells while it trains: set from data.teacher
    vocab_size: int = 0  # set from the tokenizer


@dataclass(frozen=True)
class TokenizerConfig:
    kind: str = "bpe"  # bpe | char | phone
    vocab_size: int = 256  # bpe alone


@dataclass(frozen=True)
class LossConfig:
    ctc: float = 1.0  # weight of CTC
    crf: float = 0.0  # weight of CTC-CRF: texts against what a trigram of their units finds likely (samba_asr.ops.crf)
    intermediate: float = 0.5  # share of the CTC behind model.self_conditioning in it, if there are such
    decoder: float = 0.0  # weight of the decoder's cross-entropy
    cr_ctc: float = 0.0  # weight of the consistency between two augmented views; 0 trains on one view
    teacher: float = 0.0  # weight of the squared distance, a channel, from what the teacher of data.teacher hears
    label_smoothing: float = 0.1  # of the decoder's cross-entropy


@dataclass(frozen=True)
class DataConfig:
    train: tuple[str, ...] = ()  # manifests (JSONL)
    weights: tuple[float, ...] = ()  # how often an epoch takes each of them, fractions too; (): once
    valid: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()  # manifests of noises to mix in, beside the synthetic ones
    teacher: str = ""  # folder of what a teacher hears in the training speech (`samba-asr augment teach`)
    min_seconds: float = 0.3  # shorter and longer utterances are left out of training, and counted in the log
    max_seconds: float = 24.0
    batch_seconds: float = 120.0  # padded audio in a batch of one process
    buckets: int = 12  # of about equal duration
    workers: int = 0  # loader processes beside the main one
    cache: bool = True  # keep decoded audio in memory (16-bit: 115 MB an hour)


@dataclass(frozen=True)
class AugmentConfig:
    """Training only (samba_asr.audio.augment)."""

    speed: tuple[float, ...] = (0.9, 1.0, 1.1)
    volume_db: float = 6.0  # gain drawn from +- this
    silence_prob: float = 0.0  # of hearing, in place of an utterance, background alone, with an empty text
    pad_seconds: float = 0.0  # background before an utterance or behind it, each every other time, up to this long
    noise_prob: float = 0.0
    noise_snr_db: tuple[float, float] = (10.0, 30.0)
    reverb_prob: float = 0.0
    rt60: tuple[float, float] = (0.1, 0.6)  # seconds
    channel_prob: float = 0.0  # of sounding as if a reader of augment.channels had recorded it
    channels: str = ""  # file of readers' spectra and noise floors (`samba-asr augment channels`)
    narrow_prob: float = 0.0  # of hearing it as by telephone, without what lies above 4 kHz
    vocal_tract: float = 0.0  # frequencies times a factor drawn from 1 +- this: other voices; 0: off
    equalizer_db: float = 0.0  # a smooth filter over the spectrum, within +- this: other microphones and rooms; 0: off
    time_masks: int = 10  # SpecAugment
    time_width: int = 40  # frames of 10 ms
    time_ratio: float = 0.15  # of the utterance, at most, under time masks
    freq_masks: int = 2
    freq_width: int = 27  # mels


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule (samba_asr.training.optim)."""

    lr: float = 1.0e-3  # peak
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1.0e-9
    weight_decay: float = 0.01  # on matrices alone; never on A_log, D, dt_bias, norms, biases
    schedule: str = "cosine"  # cosine | noam | constant, each after a linear warm-up
    warmup: int = 500  # steps
    final_lr: float = 0.01  # where cosine ends, as a share of the peak
    clip: float = 1.0  # norm of the gradient
    accumulate: int = 1  # batches a step


@dataclass(frozen=True)
class TrainConfig:
    seed: int = 1
    device: str = "auto"  # auto | cpu | cuda | cuda:1
    dtype: str = "auto"  # auto | float32 | bfloat16: of matrix products; weights and scans stay float32
    epochs: int = 30
    easy_epochs: int = (
        0  # the first ones without augmentation, dropout and blocks: CTC finds its first alignments sooner
    )
    max_steps: int = 0  # 0: no limit
    max_minutes: float = 0.0  # 0: no limit; the schedule then follows the clock
    ema: float = 0.0  # decay of the averaged weights; 0: none
    save_minutes: float = 5.0  # a checkpoint to resume from, beside the one after each epoch
    keep_best: int = 5  # checkpoints kept by validation score, for averaging
    keep_last: int = 2
    valid_every: int = 1  # epochs
    examples: int = 3  # validation utterances shown, decoded, in the log
    log_every: int = 20  # steps


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


@dataclass(frozen=True)
class PretrainConfig:
    """Pretraining on speech alone (samba_asr.training.objectives)."""

    name: str = "best_rq"  # the objective
    codes: int = 1024  # that a frame may have
    dim: int = 16  # of the space they lie in
    span: int = 10  # encoder frames hidden together: 400 ms
    share: float = 0.5  # of all frames, if no two spans met


@dataclass(frozen=True)
class EndpointConfig:
    """Where a session's segments end (samba_asr.decoding.segmenter), seconds; and which of them are speech."""

    silence: float = 2.4  # of it, before anything is said
    pause: float = 1.2  # of silence behind words
    longest: float = 20.0  # then the segment is cut between two words
    confidence: float = (
        0.0  # 0 to 1; of a segment whose words have less on the average (one alone: 1.4 times it) nothing is told
    )


@dataclass(frozen=True)
class DecodeConfig:
    method: str = "greedy"  # greedy | beam
    beam: int = 8  # prefixes kept
    prune: float = (
        10.0  # nats that a prefix may be worse than the best to be made longer; fewer: faster, and less exact
    )
    block: int = -1  # encoder block in frames (of 40 ms, model.subsampling=4); -1: the model's max_block
    overlap: float = (
        0.0  # share of a block that is heard again with the next: so much is seen behind every frame, at more work
    )
    lm: str = ""  # n-gram of words for the beam, ARPA or KenLM's binary: a path, or a name in the model's folder
    lm_weight: float = 0.5  # of its logarithms
    word_bonus: float = 2.0  # nats a word: a language model alone prefers few words
    words: str = ""  # file of the words that may be recognised, one a line; default all that the language model has
    lexicon: str = ""  # more pronunciations, for a model of phones: Kaldi's lexicon.txt
    neural_lm: str = (
        ""  # folder of a Mamba language model: in the beam where it has the model's units, else over the n-best
    )
    neural_weight: float = 0.3  # of its logarithms
    hotwords: str = (
        ""  # file of phrases that are expected, one a line, with a weight of its own behind a colon or without
    )
    hotword_weight: float = 1.5  # nats a unit of a phrase
    rescore: float = 0.0  # weight of the decoder in the second pass, 0 to 1; 0: CTC alone
    nbest: int = 1
    vad: str = ""  # energy | silero: what neither holds is not heard, live and in transcribe; "": everything is
    endpoint: EndpointConfig = field(
        default_factory=EndpointConfig
    )  # live and in transcribe; `samba-asr decode` has utterances


@dataclass(frozen=True)
class Config:
    version: int = VERSION
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    lm: LmConfig = field(default_factory=LmConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


# ---- reading and writing ---------------------------------------------------------------------------------------------


def load(
    files: Sequence[Path | str] = (), overrides: Sequence[str] = (), *, folder: Path | str | None = None
) -> Config:
    """Merge YAML files, then `key=value` overrides, over the defaults.

    A name without a suffix and without a file (`model/small`) is looked up in the installed `samba_asr.conf`.
    folder: of a model or a run, whose own `config.yaml` comes before all these.  Names of files in it are left as they are.
    Those in `files` and `overrides` become absolute where the current folder holds such a file.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    tree = OmegaConf.structured(Config)
    own = [] if folder is None else [Path(folder) / "config.yaml"]
    sources = [(str(f), lambda f=f: OmegaConf.load(find(f))) for f in (*own, *files)]
    sources += [(text, lambda text=text: _override(text)) for text in overrides]
    by_hand: set[str] = set()
    for number, (name, read) in enumerate(sources):
        try:
            part = read()
            _check_keys(OmegaConf.to_container(part), Config, name)
            if number >= len(own):
                by_hand.update(key for key in SEARCH_FILES if key in (part.get("decode") or {}))
            tree = OmegaConf.merge(tree, part)
        except UserError:
            raise
        except (OmegaConfBaseException, ValueError, OSError) as error:
            raise UserError(f"{name}: {str(error).splitlines()[0]}") from None
        except Exception as error:  # PyYAML's errors share no base class that omegaconf re-exports
            raise UserError(f"{name}: not readable as YAML: {' '.join(str(error).split())}") from None
    try:
        return _with_paths(_tuples(OmegaConf.to_object(tree)), by_hand)
    except OmegaConfBaseException as error:  # a ${reference} to what is not there
        where = getattr(error, "full_key", None)
        raise UserError(f"{where or 'configuration'}: {str(error).splitlines()[0]}") from None


def is_search_file(path: Path, key: str) -> bool:
    """Whether the path holds what the key of `SEARCH_FILES` may name: a folder for a neural language model, else a file."""
    return path.exists() and path.is_dir() == (key == "neural_lm")


def _with_paths(config: Config, by_hand: Collection[str]) -> Config:
    """`config` with the names of files that were given by hand, and lie in the current folder, as absolute paths."""
    names = {key: Path(getattr(config.decode, key)) for key in by_hand if getattr(config.decode, key)}
    there = {key: str(path.absolute()) for key, path in names.items() if is_search_file(path, key)}
    return replace(config, decode=replace(config.decode, **there))


def find(name: Path | str) -> Path:
    """The file of this name, or the one under `samba_asr/conf` (`model/small` -> conf/model/small.yaml)."""
    path = Path(name)
    if path.is_file():
        return path
    from importlib import resources

    root = Path(str(resources.files("samba_asr.conf")))
    known = {p.relative_to(root).with_suffix("").as_posix(): p for p in sorted(root.rglob("*.yaml"))}
    if str(name) in known:
        return known[str(name)]
    raise UserError(f"no configuration {str(name)!r}: neither a file nor one of {', '.join(known)}")


def save(config: Config, path: Path) -> None:
    """Write the whole tree as YAML."""
    from omegaconf import OmegaConf

    Path(path).write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))


def _override(text: str):
    from omegaconf import OmegaConf

    if not re.match(r"^[\w.]+=", text):
        raise UserError(f"{text!r} is not an override: write key=value, such as optim.lr=0.001")
    if text.endswith("="):
        text += '""'  # OmegaConf would read nothing as None, which no setting can be
    return OmegaConf.from_dotlist([text])


def _check_keys(tree: Any, schema: type, source: str, prefix: str = "") -> None:
    """Name an unknown key and the nearest known one; OmegaConf's own message leaves out the file and the path."""
    if not isinstance(tree, dict):
        raise UserError(f"{source}: {prefix.rstrip('.') or 'the file'} must be a mapping of keys to values")
    known = {f.name: f for f in fields(schema)}
    defaults = schema()
    for key, value in tree.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f" (did you mean {prefix}{near[0]}?)" if near else f"; there are: {', '.join(known)}"
            raise UserError(f"{source}: unknown key {prefix}{key}{hint}")
        default = getattr(defaults, key)
        if is_dataclass(default) and value is not None:
            _check_keys(value, type(default), source, f"{prefix}{key}.")


def _tuples(config: Any, prefix: str = "") -> Any:
    """OmegaConf gives lists for tuples; make the tree hashable and comparable again.  UserError for NaN and inf."""
    values = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            value = _tuples(value, f"{prefix}{f.name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{prefix}{f.name}={value}: give a finite number")
        elif isinstance(value, list):
            value = tuple(value)
        values[f.name] = value
    return type(config)(**values)
