"""`samba-asr lm mix`: mix n-gram models, with the weights that fit a text."""

from __future__ import annotations

import argparse
from pathlib import Path

from samba_asr.commands.search_options import language_model, texts
from samba_asr.errors import UserError


def add_mix(kinds) -> None:
    parser = kinds.add_parser(
        "mix",
        help="mix n-grams, as one of general text with one of yours",
        description="Mix n-gram models into one, with the weights that make --text likeliest.  Its words are those of all: give "
        "a model of phones their pronunciations, by samba-asr lm lexicon.",
    )
    parser.add_argument(
        "lm", nargs="+", type=Path, metavar="LM", help="ARPA or packed file, or a recognizer that has one (english)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="packed n-gram, such as mixed.ngram")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--text", type=Path, metavar="FILE", help="text, or a manifest of utterances (JSONL), for the weights"
    )
    how.add_argument("--weights", type=float, nargs="+", metavar="X", help="weights, one a model, instead")
    parser.set_defaults(run=run_mix)


def run_mix(args: argparse.Namespace) -> int:
    from samba_asr.decoding import packed
    from samba_asr.decoding.mixture import best_weights, mixed, of_text, perplexity
    from samba_asr.decoding.ngram import NgramModel, read_ngram

    if len(args.lm) < 2:
        raise UserError(f"{args.lm[0]} alone: give two models or more to mix")
    if args.weights and len(args.weights) != len(args.lm):
        raise UserError(f"--weights: {len(args.weights)} for {len(args.lm)} models: give one a model")
    if args.weights and not (min(args.weights) >= 0 and 0 < sum(args.weights) < float("inf")):
        raise UserError(f"--weights {' '.join(f'{w:g}' for w in args.weights)}: give numbers from 0, not all of them 0")
    models = []
    for name in args.lm:
        model = read_ngram(language_model(name, "lm.path"))
        if not isinstance(model, NgramModel):
            raise UserError(
                f"{name}: a file of KenLM, which lists no n-grams: give the ARPA file that it was made from"
            )
        models.append(model)
    if args.weights:
        weights = [weight / sum(args.weights) for weight in args.weights]
    else:
        p = of_text(models, texts(args.text))
        weights = best_weights(p).tolist()
        for name, weight, column in zip(args.lm, weights, p.T, strict=True):
            print(f"{name}: weight {weight:.3f}, perplexity {perplexity(column):.1f} a word")
        print(
            f"mixed: perplexity {perplexity(p @ weights):.1f} a word, of {len(p)} words and ends that one of them knows"
        )
    packed.write(args.out, *mixed(models, weights))
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")
    return 0
