"""`samba-asr lm`: train, mix, pack, pronounce and tune language models."""

from __future__ import annotations

import argparse

from samba_asr.commands.lm_mamba import add_mamba
from samba_asr.commands.lm_mix import add_mix
from samba_asr.commands.lm_ngram import add_lexicon, add_pack, add_train
from samba_asr.commands.lm_pronounce import add_pronounce
from samba_asr.commands.lm_tune import add_tune


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "lm",
        help="train and tune language models",
        description="Train a language model, mix it with others, pack it, pronounce its words, and tune its weight.",
    )
    kinds = parser.add_subparsers(dest="lm", metavar="WHAT", required=True)
    add_train(kinds)
    add_pack(kinds)
    add_mix(kinds)
    add_mamba(kinds)
    add_lexicon(kinds)
    add_pronounce(kinds)
    add_tune(kinds)
    return parser
