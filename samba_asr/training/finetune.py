"""Training runs as `samba-asr train` starts them: from scratch, from a model folder, or from a pretrained encoder.

config = config.load(["model/small"], ["data.train=[data/train.jsonl]", "data.valid=[data/dev.jsonl]"])
result = finetune.run(config, Path("exp/tuned"), init=Path("models/english"))
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from pathlib import Path

import torch

from samba_asr.config import Config, ModelConfig, TokenizerConfig
from samba_asr.data.bucketing import derive_seed
from samba_asr.data.manifest import Utterance
from samba_asr.data.sets import Sets, read_sets
from samba_asr.data.teacher import TeacherFrames
from samba_asr.data.unknown import in_the_case_of
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.models.deepen import deepen
from samba_asr.models.folder import copy_search_files, load_model, read_encoder
from samba_asr.models.pronouncer import load_pronouncer
from samba_asr.text.tokenizer import Tokenizer, has_tokenizer, load_tokenizer, train_tokenizer
from samba_asr.text.units import same_pieces
from samba_asr.training import distributed
from samba_asr.training.distributed import Ranks
from samba_asr.training.lock import locked
from samba_asr.training.trainer import TrainResult, train

logger = logging.getLogger(__name__)


def run(
    config: Config,
    folder: Path,
    *,
    init: Path | None = None,
    init_encoder: Path | None = None,
    new_tokenizer: bool = False,
) -> TrainResult:
    """Train on the manifests that `config` names, in `folder`, or continue the run that is there.

    init: a model folder whose weights the run begins with, and whose tokenizer it has.  init_encoder: a folder whose encoder
    it begins with (`samba-asr pretrain` writes it).  new_tokenizer: with `init`, train a tokenizer as `config` has it; weights
    that depend on the vocabulary start afresh.  UserError for what does not go together or does not fit.
    """
    if new_tokenizer and not init:
        raise UserError(
            "new_tokenizer (--new-tokenizer) needs init (--init): without it, every run makes its own tokenizer"
        )
    if init and init_encoder:
        raise UserError("init (--init) has an encoder: give no init_encoder (--init-encoder) beside it")
    config, folder = with_teacher(config), Path(folder)
    sets = read_sets(config.data)
    ranks = distributed.start(config.train.device)
    with contextlib.ExitStack() as stack:
        if ranks.rank == 0:  # it writes
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        return _run(config, folder, sets, ranks, init, init_encoder, new_tokenizer)


def _run(
    config: Config,
    folder: Path,
    sets: Sets,
    ranks: Ranks,
    init: Path | None,
    init_encoder: Path | None,
    new_tokenizer: bool,
) -> TrainResult:
    if ranks.rank == 0:
        if init and not new_tokenizer and not has_tokenizer(folder):
            load_tokenizer(init).save(folder)
        # For the model that averaging makes; training itself reads none of them, so the other processes need not know.
        config = dataclasses.replace(config, decode=copy_search_files(config.decode, init or folder, folder))
        prepare_tokenizer(folder, config.tokenizer, sets.train)
    ranks.barrier()
    tokenizer = load_tokenizer(folder)
    model = None
    if init:
        model = initial_model(init, config, tokenizer, new_tokenizer)
        if (bound := config.decode.endpoint.confidence) and ranks.rank == 0:
            logger.info("decode.endpoint.confidence=%g does nothing until the new model is calibrated", bound)
    if init_encoder:
        model = with_encoder(init_encoder, config, tokenizer)
    speech, valid = in_the_case_of(tokenizer, sets.train, sets.valid)
    return train(config, folder, tokenizer=tokenizer, train=speech, valid=valid, noise=sets.noise, model=model)


def with_teacher(config: Config) -> Config:
    """The configuration with model.teacher as wide as the frames of data.teacher; UserError where one of both is missing."""
    if config.loss.teacher and not config.data.teacher:
        raise UserError(
            f"loss.teacher={config.loss.teacher} needs data.teacher, a folder that samba-asr augment teach writes"
        )
    if config.data.teacher and not config.loss.teacher:
        raise UserError(
            f"data.teacher={config.data.teacher} teaches nothing without a weight: set loss.teacher, such as 0.5"
        )
    width = TeacherFrames(Path(config.data.teacher)).width if config.data.teacher else 0
    return dataclasses.replace(config, model=dataclasses.replace(config.model, teacher=width))


def initial_model(folder: Path, config: Config, tokenizer: Tokenizer, new_tokenizer: bool = False) -> AsrModel:
    """A model as `config` has it with the weights of the model folder; UserError if they do not fit it.

    It may have more encoder layers than the folder's: those begin as nothing (samba_asr.models.deepen).
    new_tokenizer: leave out, and name in the log, the weights that have a row for each unit of the vocabulary.
    """
    loaded = load_model(folder)
    same = same_pieces(loaded.tokenizer, tokenizer)
    if not same and not new_tokenizer:
        raise UserError(
            f"{folder}: its tokenizer is not that of the run: train in another folder, or with new_tokenizer (--new-tokenizer)"
        )
    model = AsrModel(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
    if config.model.layers > loaded.config.model.layers:
        logger.info("layers %d to %d begin as nothing", loaded.config.model.layers + 1, config.model.layers)
        deepen(loaded.model.acoustic.encoder, config.model.layers)
    weights, own = loaded.model.state_dict(), model.state_dict()
    if not same:
        afresh = sorted(_sized_by_vocabulary(config.model) & weights.keys())
        logger.info("another tokenizer: these start afresh: %s", ", ".join(afresh))
        weights |= {name: own[name] for name in afresh if name in own}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: its weights do not fit the configuration; of model.*, only more layers are possible: {reason}"
        ) from None
    return model


def with_encoder(folder: Path, config: Config, tokenizer: Tokenizer) -> AsrModel:
    """A new model with the encoder of the folder; what that lacks is named in the log, and starts afresh."""
    torch.manual_seed(derive_seed("model", config.train.seed))
    model = AsrModel(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
    missing = read_encoder(folder, model)
    logger.info("the encoder is pretrained, the rest starts afresh%s", f", and {', '.join(missing)}" if missing else "")
    return model


def _sized_by_vocabulary(config: ModelConfig) -> set[str]:
    """Names of the weights whose shape depends on the vocabulary's size."""
    with torch.device("meta"):
        two, three = (AsrModel(dataclasses.replace(config, vocab_size=v)).state_dict() for v in (2, 3))
    return {name for name in two if two[name].shape != three[name].shape}


def prepare_tokenizer(folder: Path, config: TokenizerConfig, train: list[Utterance]) -> Tokenizer:
    """The tokenizer in `folder`, or a new one trained on the texts of `train` and saved there.

    UserError if the one in `folder` is not what `config` asks for.
    """
    if not has_tokenizer(folder):
        # `vocab_size` is for bpe; characters and phones are as many as there are
        size = config.vocab_size if config.kind == "bpe" else None
        texts = (u.text for u in train)
        return train_tokenizer(texts, config.kind, size, folder, lambda words: load_pronouncer().pronounce(words))
    tokenizer = load_tokenizer(folder)
    kind = tokenizer.KIND
    if kind != config.kind or (kind == "bpe" and tokenizer.vocab_size != config.vocab_size):
        raise UserError(
            f"{folder} holds a tokenizer of kind {kind} with {tokenizer.vocab_size} units, the configuration asks for "
            f"{config.kind}{f' with {config.vocab_size}' if config.kind == 'bpe' else ''}: train in another folder"
        )
    return tokenizer
