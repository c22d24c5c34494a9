"""`samba-asr finetune`: fine-tune a model on a corpus, from its folder to a scored model folder."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from samba_asr.commands.search_options import add_settings
from samba_asr.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "finetune",
        help="fine-tune a model on your own speech, and score it",
        description="Read a corpus as samba-asr prepare does, such as a folder of a.wav with a.txt; hold out a tenth of it for "
        "validation and a tenth for a test, by speaker where there are three or more (the folder of a file is its speaker); "
        "train from a model's weights; average the result with that model; adapt its neural language model to the texts; "
        "calibrate its confidences; and score both on the test.  Utterances with problems are left out and listed.  The same "
        "command continues a run that was interrupted.",
    )
    parser.add_argument("corpus", help="path of a corpus")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="model folder to write")
    parser.add_argument(
        "--init", type=Path, default="english", metavar="MODEL", help="model to start with (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=20.0, metavar="N", help="maximum duration of training (default: %(default)g)"
    )
    parser.add_argument(
        "--license", default="", help="license of the new weights, for the model card (default: the old model's)"
    )
    parser.add_argument(
        "--keep-language-model", action="store_true", help="do not adapt the neural language model to the texts"
    )
    add_settings(parser, "settings of training, such as optim.lr=0.0001")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Fine-tune and print the scores; return 0."""
    from samba_asr.evaluation.finetune import FinetuneOptions, finetune

    if not args.minutes > 0:
        raise UserError(f"--minutes {args.minutes:g} must be positive")
    began = time.monotonic()

    def stage(text: str) -> None:
        print(f"== {text} ({time.monotonic() - began:.0f} s) ==", file=sys.stderr, flush=True)

    options = FinetuneOptions(
        init=args.init,
        minutes=args.minutes,
        settings=tuple(args.overrides),
        license=args.license,
        language_model=not args.keep_language_model,
    )
    found = finetune(args.corpus, args.out, options, stage=stage)
    speakers = "of other speakers" if found.by_speaker else "of known speakers"
    words = found.after.report.counts.words if found.after.report else 0
    print(f"word errors in the test: {len(found.after.utterances)} utterances {speakers}, {words} words")
    for name, scored in ((str(args.init), found.before), (str(args.out), found.after)):
        if scored.interval:
            print(
                f"  {name:<20} {scored.wer:6.2f} %   95 % interval [ {scored.interval[0]:.2f}, {scored.interval[1]:.2f} ]"
            )
    if found.perplexity:
        before, after = found.perplexity
        print(f"language model: perplexity of the validation texts {before:.1f} a word, adapted {after:.1f}")
    print(f"confidences: {'calibrated' if found.calibrated else 'not calibrated, see the warning above'}")
    print(f"your model is {args.out}; try: samba-asr transcribe --model {args.out} FILE")
    return 0
