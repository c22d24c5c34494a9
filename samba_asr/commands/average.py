"""`samba-asr average`: from the checkpoints of a run to a model folder."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr import config as configs
from samba_asr.errors import UserError
from samba_asr.text.tokenizer import Tokenizer, load_tokenizer
from samba_asr.text.units import same_pieces
from samba_asr.training import checkpoint

if TYPE_CHECKING:
    from samba_asr.models.asr import AsrModel

logger = logging.getLogger(__name__)


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "average",
        help="average checkpoints into a model folder",
        description="Average the weights of checkpoints of a run and write a model folder, which transcribe takes. "
        "Without --best, --last or files: as many of the best by validation score as the run keeps.",
    )
    parser.add_argument("--exp", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model folder to write")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--best", type=int, metavar="N", help="the N checkpoints of best validation score")
    chosen.add_argument("--last", type=int, metavar="N", help="the last N checkpoints")
    chosen.add_argument("files", type=Path, nargs="*", default=[], metavar="epoch-NNN.pt", help="these checkpoints")
    parser.add_argument(
        "--with",
        type=Path,
        nargs="+",
        default=[],
        metavar="MODEL",
        dest="models",
        help="and take the mean of that and these models, folders or of the box: such as the one that the run began with, which "
        "keeps what fine-tuning forgets (M. Wortsman et al., Robust fine-tuning of zero-shot models, 2022)",
    )
    parser.add_argument("--bfloat16", action="store_true", help="write matrices in half the bytes")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    import torch

    from samba_asr.models.asr import AsrModel
    from samba_asr.models.folder import copy_search_files, save_model

    path = args.exp / "config.yaml"
    if not path.is_file():
        raise UserError(f"{args.exp}: no config.yaml here; is it the folder of a run?")
    config = configs.load([path])
    for option in ("best", "last"):
        if (value := getattr(args, option)) is not None and value < 1:
            raise UserError(f"--{option} {value}: give 1 or more")
    files = args.files or checkpoint.choose(args.exp, best=args.best or config.train.keep_best, last=args.last or 0)
    model, tokenizer = AsrModel(config.model), load_tokenizer(args.exp)
    try:
        model.load_state_dict(checkpoint.average(files))
    except RuntimeError as error:
        raise UserError(f"{files[0]}: does not fit the model of {path}: {' '.join(str(error).split())[:200]}") from None
    if args.models:
        _average_with(model, tokenizer, args.models)
    save_model(args.out, model, config, tokenizer, torch.bfloat16 if args.bfloat16 else torch.float32)
    copy_search_files(config, args.exp, args.out)
    logger.info("%s: the mean of %s", args.out, ", ".join([*(f.name for f in files), *map(str, args.models)]))
    return 0


def _average_with(model: AsrModel, tokenizer: Tokenizer, folders: Sequence[Path]) -> None:
    """Move `model` to the mean of itself and the models of `folders`.

    UserError for one of another tokenizer or shape.
    """
    from samba_asr.models.box import box_folder
    from samba_asr.models.folder import load_model

    weights = [("the run", model.state_dict())]
    for folder in folders:
        other = load_model(box_folder(folder))
        if not same_pieces(other.tokenizer, tokenizer):
            raise UserError(f"--with {folder}: its tokenizer is another, so its weights mean other things")
        weights.append((f"--with {folder}", other.model.state_dict()))
    model.load_state_dict(checkpoint.mean(weights))
