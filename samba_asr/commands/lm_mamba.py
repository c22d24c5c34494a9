"""`samba-asr lm mamba`: train a Mamba language model from text, or adapt one to it."""

from __future__ import annotations

import argparse
from pathlib import Path

from samba_asr import config as configs
from samba_asr.commands.search_options import add_settings, language_model, texts
from samba_asr.errors import UserError


def add_mamba(kinds) -> None:
    parser = kinds.add_parser(
        "mamba",
        help="train a Mamba language model from text",
        description="Train a Mamba language model in --exp, or continue the run that is there, and write it to --exp/model.  "
        "The main settings are lm.*, optim.*, train.max_minutes and tokenizer.*.  lm.experts=8 gives each layer eight "
        "feed-forwards of which a unit uses one, lm.memory=128 adds a memory of 16,384 values.  Under torchrun all processes "
        "train together.  With --init it adapts a language model to your text, in minutes.",
    )
    parser.add_argument("text", nargs="+", type=Path, metavar="FILE", help="text, plain or .gz, .xz, .bz2")
    parser.add_argument("--exp", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--valid",
        type=Path,
        required=True,
        metavar="FILE",
        help="validation text, or a manifest of utterances (JSONL), for the perplexity",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--init",
        type=Path,
        metavar="FOLDER",
        help="adapt this language model, or that of this recognizer (english): start with its weights and units",
    )
    parser.add_argument(
        "--average",
        action="store_true",
        help="with --init: write the mean of the old weights and the new, which forgets less of other text",
    )
    start.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="use the units of this model, so that beam search can score every unit (default: BPE units of the text)",
    )
    parser.add_argument("--bfloat16", action="store_true", help="write matrices as bfloat16, in half the bytes")
    parser.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="NAME_OR_FILE", help="as in samba-asr train"
    )
    add_settings(parser, "settings, such as lm.layers=2")
    parser.set_defaults(run=run_mamba)


def run_mamba(args: argparse.Namespace) -> int:
    """Train; return 0, or 130 or 143 if SIGINT or SIGTERM ended training early, after saving."""
    import torch

    from samba_asr.training.language_model import DEFAULTS, shape, train_language_model

    if args.average and not args.init:
        raise UserError("--average takes the mean with the model of --init: give that, such as --init english")
    init = language_model(args.init, "lm.neural") if args.init else None
    config = configs.load(args.config, [*DEFAULTS, *(shape(init) if init else []), *args.overrides])
    try:
        args.exp.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--exp {args.exp}: cannot make this folder ({error.strerror})") from None
    valid = texts(args.valid)
    dtype = torch.bfloat16 if args.bfloat16 else torch.float32
    result = train_language_model(
        config, args.text, valid, args.exp, init=init, tokenizer=args.tokenizer, average=args.average, dtype=dtype
    )
    return 128 + result.signal if result.signal else 0
