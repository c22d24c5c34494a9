"""`samba-asr train`: from manifests to checkpoints, from scratch or from a model."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr import config as configs
from samba_asr.data.manifest import Utterance, read_manifest
from samba_asr.errors import UserError
from samba_asr.text.tokenizer import Tokenizer, has_tokenizer, load_tokenizer, train_tokenizer
from samba_asr.text.units import same_pieces

if TYPE_CHECKING:
    from samba_asr.models.asr import AsrModel


logger = logging.getLogger(__name__)


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "train",
        help="train a model, or continue",
        description="Train in --exp, or continue the run that is there. Under torchrun, on every process it starts.",
    )
    parser.add_argument(
        "--exp", type=Path, required=True, metavar="DIR", help="folder of the run: checkpoints, log.txt"
    )
    parser.add_argument(
        "--config",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME_OR_FILE",
        help="configurations, later over earlier: a YAML file, or a name under conf/ such as model/small",
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="FOLDER",
        help="begin with the weights of this model, a folder or one of the box, with its tokenizer and, under --config, its "
        "configuration (fine-tuning)",
    )
    parser.add_argument(
        "--init-encoder", type=Path, metavar="FOLDER", help="begin with this encoder, which samba-asr pretrain wrote"
    )
    parser.add_argument(
        "--new-tokenizer",
        action="store_true",
        help="with --init: make a tokenizer as the configuration has it; what depends on the vocabulary starts afresh",
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings over those, such as optim.lr=0.001"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """0; 130 or 143 when SIGINT or SIGTERM ended training early, after saving."""
    from samba_asr.models.box import box_folder
    from samba_asr.models.folder import copy_search_files
    from samba_asr.training import distributed
    from samba_asr.training.trainer import train

    if args.new_tokenizer and not args.init:
        raise UserError("--new-tokenizer belongs to --init: without it, every run makes its own tokenizer")
    if args.init and args.init_encoder:
        raise UserError("--init has an encoder: give no --init-encoder beside it")
    if args.init:
        args.init = box_folder(args.init)
    config = with_teacher(configured(args, [args.init / "config.yaml"] if args.init else []))
    data, valid, noise = speech(config.data)
    ranks = distributed.start(config.train.device)
    if ranks.rank == 0:  # it writes
        if args.init and not args.new_tokenizer and not has_tokenizer(args.exp):
            load_tokenizer(args.init).save(args.exp)
        if args.init:
            copy_search_files(config, args.init, args.exp)  # `average` hands them on
        prepare_tokenizer(args.exp, config.tokenizer, data)
    ranks.barrier()
    tokenizer = load_tokenizer(args.exp)
    model = initial_model(args.init, config, tokenizer, args.new_tokenizer) if args.init else None
    if args.init_encoder:
        model = with_encoder(args.init_encoder, config, tokenizer)
    result = train(config, args.exp, tokenizer=tokenizer, train=data, valid=valid, noise=noise, model=model)
    return 128 + result.signal if result.signal else 0


def configured(args: argparse.Namespace, files: Sequence[Path] = ()) -> configs.Config:
    """`files`, then --config, then key=value; and the folder --exp is there."""
    # `--config a b key=value`: argparse gives all three to --config
    files = [*files, *(text for text in args.config if "=" not in text)]
    config = configs.load(files, [text for text in args.config if "=" in text] + args.overrides)
    try:
        args.exp.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--exp {args.exp}: cannot make this folder ({error.strerror})") from None
    return config


def with_teacher(config: configs.Config) -> configs.Config:
    """The configuration with model.teacher as wide as the frames of data.teacher; UserError where one of both is missing."""
    from samba_asr.data.teacher import TeacherFrames

    if config.loss.teacher and not config.data.teacher:
        raise UserError(
            f"loss.teacher={config.loss.teacher} wants data.teacher, a folder that samba-asr augment teach writes"
        )
    if config.data.teacher and not config.loss.teacher:
        raise UserError(
            f"data.teacher={config.data.teacher} teaches nothing without a weight: set loss.teacher, such as 0.5"
        )
    width = TeacherFrames(Path(config.data.teacher)).width if config.data.teacher else 0
    return dataclasses.replace(config, model=dataclasses.replace(config.model, teacher=width))


def speech(config: configs.DataConfig) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
    """The utterances of data.train, with data.weights, of data.valid and data.noise.

    UserError if there are none to train on, or if the weights do not fit the manifests.
    """
    if not config.train:
        raise UserError("data.train is empty: give one manifest or more, such as 'data.train=[data/train.jsonl]'")
    check_weights(config)
    train, valid, noise = (
        [u for path in paths for u in read_manifest(path)] for paths in (config.train, config.valid, config.noise)
    )
    if config.weights:
        train = [
            dataclasses.replace(u, weight=u.weight * weight)
            for path, weight in zip(config.train, config.weights, strict=True)
            for u in read_manifest(path)
        ]
    return train, valid, noise


def check_weights(config: configs.DataConfig) -> None:
    """UserError unless data.weights is empty, or as long as data.train, finite, not negative and not all 0."""
    weights, fix = config.weights, "give a number for each manifest, such as data.weights=[1,3]"
    if not weights:
        return
    if len(weights) != len(config.train):
        raise UserError(f"data.weights has {len(weights)} numbers, data.train has {len(config.train)} manifests: {fix}")
    for weight, path in zip(weights, config.train, strict=True):
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"data.weights: {weight} of {path} is not a number from 0 on: {fix}")
    if not any(weights):
        raise UserError(f"data.weights are all 0, so there is nothing to train on: {fix}")


def initial_model(folder: Path, config: configs.Config, tokenizer: Tokenizer, new_tokenizer: bool = False) -> AsrModel:
    """A model as `config` has it with the weights of the model folder; UserError if they do not fit it.

    It may have more encoder layers than the folder's: those begin as nothing (samba_asr.models.deepen).
    new_tokenizer: leave out, and name in the log, the weights that have a row for each unit of the vocabulary.
    """
    from samba_asr.models.asr import AsrModel
    from samba_asr.models.deepen import deepen
    from samba_asr.models.folder import load_model

    loaded = load_model(folder)
    same = same_pieces(loaded.tokenizer, tokenizer)
    if not same and not new_tokenizer:
        raise UserError(
            f"--init {folder}: its tokenizer is not that of the run in --exp: train in another folder, or with --new-tokenizer"
        )
    model = AsrModel(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
    if config.model.layers > loaded.config.model.layers:
        logger.info("--init: layers %d to %d begin as nothing", loaded.config.model.layers + 1, config.model.layers)
        deepen(loaded.model.acoustic.encoder, config.model.layers)
    weights, own = loaded.model.state_dict(), model.state_dict()
    if not same:
        afresh = sorted(_sized_by_vocabulary(config.model) & weights.keys())
        logger.info("--new-tokenizer: these start afresh: %s", ", ".join(afresh))
        weights |= {name: own[name] for name in afresh if name in own}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--init {folder}: its weights do not fit the configuration; of model.*, only more layers are possible: {reason}"
        ) from None
    return model


def with_encoder(folder: Path, config: configs.Config, tokenizer: Tokenizer) -> AsrModel:
    """A new model with the encoder of the folder; what that lacks is named in the log, and starts afresh."""
    import torch

    from samba_asr.data.bucketing import derive_seed
    from samba_asr.models.asr import AsrModel
    from samba_asr.models.folder import read_encoder

    torch.manual_seed(derive_seed("model", config.train.seed))
    model = AsrModel(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
    missing = read_encoder(folder, model)
    logger.info("--init-encoder: the rest starts afresh%s", f", and {', '.join(missing)}" if missing else "")
    return model


def _sized_by_vocabulary(config: configs.ModelConfig) -> set[str]:
    """Names of the weights whose shape depends on the vocabulary's size."""
    import torch

    from samba_asr.models.asr import AsrModel

    with torch.device("meta"):
        two, three = (AsrModel(dataclasses.replace(config, vocab_size=v)).state_dict() for v in (2, 3))
    return {name for name in two if two[name].shape != three[name].shape}


def prepare_tokenizer(folder: Path, config: configs.TokenizerConfig, train: list[Utterance]) -> Tokenizer:
    """The tokenizer in `folder`, or a new one trained on the texts of `train` and saved there.

    UserError if the one in `folder` is not what `config` asks for.
    """
    if not has_tokenizer(folder):
        # `vocab_size` is for bpe; characters and phones are as many as there are
        size = config.vocab_size if config.kind == "bpe" else None
        return train_tokenizer((u.text for u in train), config.kind, size, folder)
    tokenizer = load_tokenizer(folder)
    kind = tokenizer.KIND
    if kind != config.kind or (kind == "bpe" and tokenizer.vocab_size != config.vocab_size):
        raise UserError(
            f"{folder} holds a tokenizer of kind {kind} with {tokenizer.vocab_size} units, the configuration asks for "
            f"{config.kind}{f' with {config.vocab_size}' if config.kind == 'bpe' else ''}: train in another folder"
        )
    return tokenizer
