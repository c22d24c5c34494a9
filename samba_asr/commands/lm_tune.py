"""`samba-asr lm tune`: tune the weights of a language model by word error rate."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr import config as configs
from samba_asr.commands.search_options import add_settings
from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.evaluation.tune import Trial

logger = logging.getLogger(__name__)


def add_tune(kinds) -> None:
    parser = kinds.add_parser(
        "tune",
        help="tune weights by word error rate",
        description="Try weights of a language model on a validation set (never the test set), from the middle of the grid "
        "toward better neighbors, and print the best settings.  "
        "If decode.lm.neural reads lattices or n-best lists, tune its weight too.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="model folder")
    parser.add_argument("--data", type=Path, required=True, metavar="MANIFEST", help="utterances with texts, JSONL")
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument(
        "--save",
        action="store_true",
        help="save the best settings in the model's configuration, and copy their files into its folder",
    )
    parser.add_argument(
        "--weights", type=float, nargs="+", default=None, metavar="X", help="values of decode.lm.weight"
    )
    parser.add_argument(
        "--bonuses", type=float, nargs="+", default=None, metavar="X", help="values of decode.lm.word_bonus"
    )
    add_settings(parser, "search settings, such as decode.lm=lm.ngram decode.search.beam=16")
    parser.set_defaults(run=run_tune)


def run_tune(args: argparse.Namespace) -> int:
    """Print one line for each pair of weights, then the best pair."""
    from samba_asr.data.manifest import read_manifest
    from samba_asr.decoding.searches import settings_for
    from samba_asr.device import choose_device
    from samba_asr.evaluation.tune import BONUSES, WEIGHTS, save, tune
    from samba_asr.models.folder import load_model

    loaded = load_model(args.model, choose_device(args.device))
    config = configs.load(
        overrides=[*settings_for("lm", loaded.config.decode.search.method), *args.overrides], folder=args.model
    )
    if not config.decode.lm.path:
        raise UserError("there is nothing to tune without a language model: --set decode.lm=FILE")
    utterances = read_manifest(args.data)
    if not any(u.text for u in utterances):
        raise UserError(f"{args.data} has no texts to compare with")

    def show(trial: Trial) -> None:
        print(trial.settings, trial.report.kaldi_lines()[0], flush=True)

    best = tune(
        loaded,
        utterances,
        config.decode,
        weights=args.weights or WEIGHTS,
        bonuses=args.bonuses or BONUSES,
        batch_seconds=config.data.batch_seconds,
        on_trial=show,
    )
    print(f"best: {best.settings} at {best.wer:.2f} %")
    if best.at_edge:
        print("the best is at the edge of the grid: extend it with --weights and --bonuses")
    if args.save:
        save(args.model, loaded.config, best.decode)
        logger.info("%s: saved these settings in the model's configuration", args.model)
    return 0
