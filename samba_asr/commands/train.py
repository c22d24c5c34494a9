"""`samba-asr train`: train a model from manifests, from scratch or from another model."""

from __future__ import annotations

import argparse
from pathlib import Path

from samba_asr import config as configs
from samba_asr.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "train",
        help="train a model, or continue a run",
        description="Train in --exp, or continue the run that is there.  Under torchrun, all its processes train together.",
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
        help="configurations, later ones override earlier ones: a YAML file, or a name under conf/ such as model/small",
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="FOLDER",
        help="fine-tune this model, a folder or a shipped model: start with its weights, its tokenizer and its configuration, "
        "which --config overrides",
    )
    parser.add_argument(
        "--init-encoder", type=Path, metavar="FOLDER", help="start with this encoder, written by samba-asr pretrain"
    )
    parser.add_argument(
        "--new-tokenizer",
        action="store_true",
        help="with --init: make a new tokenizer by the configuration; weights that depend on the vocabulary start from scratch",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="settings that override these, such as optim.lr=0.001",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Train; return 0, or 130 or 143 if SIGINT or SIGTERM ended training early, after saving."""
    from samba_asr.hub import model_folder
    from samba_asr.training import finetune

    init = model_folder(args.init) if args.init else None
    config = configured(args, init)
    result = finetune.run(config, args.exp, init=init, init_encoder=args.init_encoder, new_tokenizer=args.new_tokenizer)
    return 128 + result.signal if result.signal else 0


def configured(args: argparse.Namespace, folder: Path | None = None) -> configs.Config:
    """Load the configuration of the model in `folder`, then --config, then key=value; and make the folder --exp."""
    # `--config a b key=value`: argparse gives all three to --config
    files = [text for text in args.config if "=" not in text]
    config = configs.load(files, [text for text in args.config if "=" in text] + args.overrides, folder=folder)
    try:
        args.exp.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--exp {args.exp}: cannot make this folder ({error.strerror})") from None
    return config
