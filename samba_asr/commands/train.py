"""`samba-asr train`: from manifests to checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from samba_asr import config as configs
from samba_asr.data.manifest import Utterance, read_manifest
from samba_asr.errors import UserError
from samba_asr.text.tokenizer import BpeTokenizer, Tokenizer, load_tokenizer, train_tokenizer


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
        "overrides", nargs="*", default=[], metavar="key=value", help="settings over those, such as optim.lr=0.001"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """0; 130 or 143 when SIGINT or SIGTERM ended training early, after saving."""
    from samba_asr.training import distributed
    from samba_asr.training.trainer import train

    # `--config a b key=value`: argparse gives all three to --config
    files = [text for text in args.config if "=" not in text]
    overrides = [text for text in args.config if "=" in text] + args.overrides
    config = configs.load(files, overrides)
    try:
        args.exp.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--exp {args.exp}: cannot make this folder ({error.strerror})") from None
    data = _read(config.data.train, "data.train")
    valid = _read(config.data.valid, "data.valid") if config.data.valid else []
    noise = _read(config.data.noise, "data.noise") if config.data.noise else []
    ranks = distributed.start(config.train.device)
    if ranks.rank == 0:  # it writes
        prepare_tokenizer(args.exp, config.tokenizer, data)
    ranks.barrier()
    tokenizer = load_tokenizer(args.exp)
    result = train(config, args.exp, tokenizer=tokenizer, train=data, valid=valid, noise=noise)
    return 128 + result.signal if result.signal else 0


def prepare_tokenizer(folder: Path, config: configs.TokenizerConfig, train: list[Utterance]) -> Tokenizer:
    """The tokenizer in `folder`, or a new one trained on the texts of `train` and saved there.

    UserError if the one in `folder` is not what `config` asks for.
    """
    if not any(folder.glob("tokenizer.*")):
        # `vocab_size` is for bpe; a character vocabulary is as large as the text has it
        size = config.vocab_size if config.kind == "bpe" else None
        return train_tokenizer((u.text for u in train), config.kind, size, folder)
    tokenizer = load_tokenizer(folder)
    kind = "bpe" if isinstance(tokenizer, BpeTokenizer) else "char"
    if kind != config.kind or (kind == "bpe" and tokenizer.vocab_size != config.vocab_size):
        raise UserError(
            f"{folder} holds a tokenizer of kind {kind} with {tokenizer.vocab_size} units, the configuration asks for "
            f"{config.kind}{f' with {config.vocab_size}' if config.kind == 'bpe' else ''}: train in another folder"
        )
    return tokenizer


def _read(manifests: tuple[str, ...], key: str) -> list[Utterance]:
    if not manifests:
        raise UserError(f"{key} is empty: give one manifest or more, such as '{key}=[data/train.jsonl]'")
    return [utterance for path in manifests for utterance in read_manifest(path)]
