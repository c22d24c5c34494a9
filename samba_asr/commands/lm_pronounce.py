"""`samba-asr lm pronounce`: train a model that predicts pronunciations."""

from __future__ import annotations

import argparse
from pathlib import Path

from samba_asr import config as configs
from samba_asr.commands.search_options import add_settings


def add_pronounce(kinds) -> None:
    parser = kinds.add_parser(
        "pronounce",
        help="train a model that predicts pronunciations",
        description="Train a model that predicts pronunciations in --exp, or continue the run that is there, and write it to "
        "--out.  A tenth of the words is held out for the phone error rate.  The main settings are pronouncer.*, optim.* and "
        "train.max_minutes.",
    )
    parser.add_argument("--exp", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as pronunciation.safetensors")
    parser.add_argument("--lexicon", type=Path, metavar="FILE", help="Kaldi's lexicon.txt (default: CMUdict)")
    add_settings(parser, "settings")
    parser.set_defaults(run=run_pronounce)


def run_pronounce(args: argparse.Namespace) -> int:
    """Train; return 0, or 130 or 143 if SIGINT or SIGTERM ended training early, after saving."""
    from samba_asr.models.pronouncer import Pronouncer, save_pronouncer
    from samba_asr.text.lexicon import Lexicon, cmudict
    from samba_asr.training import checkpoint
    from samba_asr.training.pronunciation import PronunciationTask, error_rates
    from samba_asr.training.trainer import run

    lexicon = Lexicon.read(args.lexicon) if args.lexicon else cmudict()
    wanted = ["train.epochs=30", "train.ema=0.995", "train.keep_best=1", "optim.lr=0.003", "optim.warmup=100"]
    config = configs.load(overrides=[*wanted, *args.overrides])
    task = PronunciationTask(config, lexicon)
    result = run(config, args.exp, None, lambda config: task)
    if result.signal:
        return 128 + result.signal
    model = Pronouncer(config.pronouncer, task.data.phones)
    model.load_state_dict(checkpoint.average(checkpoint.choose(args.exp, best=1, last=0)))
    save_pronouncer(args.out, model)
    phones, words = error_rates(model.half().float().eval(), task.valid)
    print(f"held out: {len(task.valid)} words, {phones:.2f} % of phones wrong, {words:.1f} % of words")
    return 0
