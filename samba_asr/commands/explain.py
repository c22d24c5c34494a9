"""`samba-asr explain`: draw the recognition of a file: spectrogram, probabilities of units, words, the matrix of a mixer."""

from __future__ import annotations

import argparse
from pathlib import Path

from samba_asr.commands.search_options import MODEL_HELP, add_settings, load_recognizer
from samba_asr.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "explain",
        help="draw the recognition of a file",
        description="Draw the spectrogram of an audio file with the recognized words, colored by confidence, and below it the "
        "probabilities of the likeliest units of the CTC head over time; between them, where the model has a language model, the "
        "words of the lattice that were considered.  With --mixer also what each step of a layer reads of each other step.",
    )
    parser.add_argument("audio", metavar="AUDIO", help="audio file of any format")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="picture, .png, .svg or .pdf")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="first second (default: 0)")
    parser.add_argument("--seconds", type=float, default=15.0, metavar="S", help="length (default: 15)")
    parser.add_argument("--model", type=Path, metavar="DIR", help=MODEL_HELP)
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--latency-ms", type=float, metavar="N", help="as in samba-asr transcribe")
    parser.add_argument(
        "--mixer", type=int, metavar="LAYER", help="also draw the matrix of this layer's mixer, hydra or mamba2; from 1"
    )
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
            f"--start {args.start:g} --seconds {args.seconds:g}: start at 0 or later, with at most {LONGEST:g} seconds"
        )
    plot.figure(1, 1)  # a missing package is reported before the work
    recognizer = load_recognizer(args.model, args.device, args.overrides)
    audio = read(args.audio, start=args.start, duration=args.seconds)
    if not len(audio.samples):
        raise UserError(f"{args.audio} has no audio after {args.start:g} s: give an earlier --start")
    found = explain(
        recognizer, audio.samples, rate=audio.rate, start=args.start, latency_ms=args.latency_ms, mixer=args.mixer
    )
    print(found.result.text)
    print(plot.save(draw(found), args.out))
    return 0
