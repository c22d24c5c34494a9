"""`samba-asr train`: from manifests to checkpoints, from scratch or from a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from samba_asr import config as configs
from samba_asr.errors import UserError


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
    from samba_asr.training import finetune

    init = box_folder(args.init) if args.init else None
    config = configured(args, init)
    result = finetune.run(config, args.exp, init=init, init_encoder=args.init_encoder, new_tokenizer=args.new_tokenizer)
    return 128 + result.signal if result.signal else 0


def configured(args: argparse.Namespace, folder: Path | None = None) -> configs.Config:
    """The configuration of the model in `folder`, then --config, then key=value; and the folder --exp is there."""
    # `--config a b key=value`: argparse gives all three to --config
    files = [text for text in args.config if "=" not in text]
    config = configs.load(files, [text for text in args.config if "=" in text] + args.overrides, folder=folder)
    try:
        args.exp.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--exp {args.exp}: cannot make this folder ({error.strerror})") from None
    return config
