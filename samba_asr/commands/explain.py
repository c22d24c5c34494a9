"""`samba-asr explain`: a picture of what the model recognizes: spectrogram, units' probabilities, words with their times."""

from __future__ import annotations

import argparse
from pathlib import Path

from samba_asr.commands.search_options import MODEL_HELP, add_settings, load_recognizer
from samba_asr.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "explain",
        help="a picture of what the model recognizes",
        description="Draw the spectrogram of an audio file with the recognized words, colored by their confidence, and "
        "below it the probabilities of the units that the CTC head considers, by time.",
    )
    parser.add_argument("audio", metavar="AUDIO", help="an audio file of any format")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="picture, .png, .svg or .pdf")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="from here, in seconds (default: 0)")
    parser.add_argument("--seconds", type=float, default=15.0, metavar="S", help="so much of it (default: 15)")
    parser.add_argument("--model", type=Path, metavar="DIR", help=MODEL_HELP)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--latency-ms", type=float, metavar="N", help="as in samba-asr transcribe")
    add_settings(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from samba_asr import plot
    from samba_asr.audio.read import read
    from samba_asr.evaluation.explain import LONGEST, draw, explain

    plot.check_suffix(args.out)
    if not 0 < args.seconds <= LONGEST or not args.start >= 0:
        raise UserError(
            f"--start {args.start:g} --seconds {args.seconds:g}: from 0 on, and at most {LONGEST:g} seconds"
        )
    plot.figure(1, 1)  # a missing package is reported before the work
    recognizer = load_recognizer(args.model, args.device, args.overrides)
    audio = read(args.audio, start=args.start, duration=args.seconds)
    if not len(audio.samples):
        raise UserError(f"{args.audio} has no audio from {args.start:g} s on")
    found = explain(recognizer, audio.samples, rate=audio.rate, start=args.start, latency_ms=args.latency_ms)
    print(found.result.text)
    print(plot.save(draw(found), args.out))
    return 0
