"""Training runs of `samba-asr train`: from scratch, from a model folder, or from a pretrained encoder.

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
from samba_asr.models.card import write_origin
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
    """Train on the manifests in `config`, in `folder`, or continue the run in it.

    init: model folder with the initial weights and the tokenizer.  init_encoder: folder with the initial encoder, written by
    `samba-asr pretrain`.  new_tokenizer: with `init`, train a new tokenizer as in `config`, and initialize the weights that
    depend on the vocabulary randomly.  UserError for arguments that exclude each other, and for weights that do not fit.
    """
    if new_tokenizer and not init:
        raise UserError(
            "new_tokenizer (--new-tokenizer) needs init (--init): without init, every run trains its own tokenizer"
        )
    if init and init_encoder:
        raise UserError("init (--init) has an encoder: leave init_encoder (--init-encoder) out")
    config, folder = with_teacher(config), Path(folder)
    sets = read_sets(config.data)
    ranks = distributed.start(config.train.device)
    with contextlib.ExitStack() as stack:
        if ranks.rank == 0:  # the rank that writes files
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
        if init:
            write_origin(folder, init)
        # For the averaged model, and for `loss.mwer`.
        config = dataclasses.replace(config, decode=copy_search_files(config.decode, init or folder, folder))
        prepare_tokenizer(folder, config.tokenizer, sets.train)
    # The other ranks wait here, for the files and their names.
    config = dataclasses.replace(config, decode=ranks.gather(config.decode)[0])
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
    """Set model.teacher to the width of the frames in data.teacher.

    UserError if only one of data.teacher and loss.teacher is set.
    """
    if config.loss.teacher and not config.data.teacher:
        raise UserError(
            f"loss.teacher={config.loss.teacher} needs data.teacher, a folder written by samba-asr augment teach"
        )
    if config.data.teacher and not config.loss.teacher:
        raise UserError(
            f"data.teacher={config.data.teacher} has no effect without a weight: set loss.teacher, such as 0.5"
        )
    width = TeacherFrames(Path(config.data.teacher)).width if config.data.teacher else 0
    return dataclasses.replace(config, model=dataclasses.replace(config.model, teacher=width))


def initial_model(folder: Path, config: Config, tokenizer: Tokenizer, new_tokenizer: bool = False) -> AsrModel:
    """Make the model of `config` with the weights of the model folder; UserError if they do not fit.

    Encoder layers beyond those of the folder start as the identity (samba_asr.models.deepen).
    new_tokenizer: do not load the weights with one row per unit of the vocabulary; the log names them.
    """
    loaded = load_model(folder)
    same = same_pieces(loaded.tokenizer, tokenizer)
    if not same and not new_tokenizer:
        raise UserError(
            f"{folder}: its tokenizer is not that of the run: train in another folder, or with new_tokenizer (--new-tokenizer)"
        )
    model = AsrModel(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
    if config.model.layers > loaded.config.model.layers:
        logger.info("layers %d to %d start as the identity", loaded.config.model.layers + 1, config.model.layers)
        deepen(loaded.model.acoustic.encoder, config.model.layers)
    weights, own = loaded.model.state_dict(), model.state_dict()
    if not same:
        random = sorted(_sized_by_vocabulary(config.model) & weights.keys())
        logger.info("another tokenizer: these weights are initialized randomly: %s", ", ".join(random))
        weights |= {name: own[name] for name in random if name in own}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: its weights do not fit the configuration; of model.*, only more layers are possible: {reason}"
        ) from None
    return model


def with_encoder(folder: Path, config: Config, tokenizer: Tokenizer) -> AsrModel:
    """Make a new model with the encoder of the folder.  Missing weights are initialized randomly; the log names them."""
    torch.manual_seed(derive_seed("model", config.train.seed))
    model = AsrModel(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
    missing = read_encoder(folder, model)
    logger.info(
        "the encoder is pretrained, other weights are random%s", f", and {', '.join(missing)}" if missing else ""
    )
    return model


def _sized_by_vocabulary(config: ModelConfig) -> set[str]:
    """Return the names of the weights whose shape depends on the size of the vocabulary."""
    with torch.device("meta"):
        two, three = (AsrModel(dataclasses.replace(config, vocab_size=v)).state_dict() for v in (2, 3))
    return {name for name in two if two[name].shape != three[name].shape}


def prepare_tokenizer(folder: Path, config: TokenizerConfig, train: list[Utterance]) -> Tokenizer:
    """Load the tokenizer in `folder`, or train one on the texts of `train` and save it there.

    UserError if the tokenizer in `folder` differs from that of `config`.
    """
    if not has_tokenizer(folder):
        # `vocab_size` is for bpe only: the texts determine the number of characters and phones
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
