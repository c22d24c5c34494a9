"""`samba-asr explain`: a picture of what the model hears: spectrogram, units' probabilities, words with their times."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from samba_asr.commands.search_options import MODEL_HELP, add_settings, load_recognizer
from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.recognizer import Recognizer, Result

LONGEST = 60.0  # seconds of a picture
MOST_UNITS = 28  # rows of the probabilities
SHOWN = 0.05  # a unit whose probability never gets here has no row


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "explain",
        help="a picture of what the model hears",
        description="Draw the spectrogram of an audio file with the recognised words, coloured by their confidence, and "
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


class Heard(NamedTuple):
    """What there is to see of a stretch of audio that begins at `start` seconds."""

    start: float
    features: np.ndarray  # (t, m) log-mel, `frame` / 4 seconds each
    centres: np.ndarray  # (m,) Hz
    probabilities: np.ndarray  # (t, v), `frame` seconds each
    frame: float
    pieces: list[str]  # of the units
    result: Result


def run(args: argparse.Namespace) -> int:
    from samba_asr import plot
    from samba_asr.audio.read import read

    plot.check_suffix(args.out)
    if not 0 < args.seconds <= LONGEST or not args.start >= 0:
        raise UserError(
            f"--start {args.start:g} --seconds {args.seconds:g}: from 0 on, and at most {LONGEST:g} seconds"
        )
    plot.figure(1, 1)  # a missing package is told before the work
    recognizer = load_recognizer(args.model, args.device, args.overrides)
    audio = read(args.audio, start=args.start, duration=args.seconds)
    if not len(audio.samples):
        raise UserError(f"{args.audio} has no audio from {args.start:g} s on")
    heard = hear(recognizer, audio.samples, audio.rate, args.start, args.latency_ms)
    print(heard.result.text)
    print(plot.save(draw(heard), args.out))
    return 0


def hear(recognizer: Recognizer, samples: np.ndarray, rate: int, start: float, latency_ms: float | None) -> Heard:
    """Recognise samples (s,), and keep what is on the way."""
    import torch

    from samba_asr.audio.resample import resample

    stream = recognizer.stream(rate, latency_ms=latency_ms)
    stream.accept(samples)
    log_probs, _ = recognizer.log_probs([samples], rate, latency_ms)
    front = recognizer.model.features
    device = front.centres.device
    x = torch.from_numpy(resample(samples, rate, recognizer.rate)).to(device)[None, :, None]
    with torch.inference_mode():
        features = front(x, torch.tensor([x.shape[1]], device=device))[0][0]
    pieces = recognizer.tokenizer.pieces(range(recognizer.tokenizer.vocab_size))
    return Heard(
        start,
        features.float().cpu().numpy(),
        front.centres.cpu().numpy(),
        np.exp(log_probs),
        recognizer.frame,
        pieces,
        stream.finish(),
    )


def units(probabilities: np.ndarray) -> list[int]:
    """The units that get a row: the likeliest somewhere, in the order in which they first are."""
    best = probabilities[:, 1:].max(axis=0, initial=0.0)
    chosen = [i + 1 for i in np.argsort(-best)[:MOST_UNITS] if best[i] >= SHOWN]
    return sorted(chosen, key=lambda i: int(np.argmax(probabilities[:, i])))


def draw(heard: Heard):
    """Three panels over one axis of time: words, spectrogram, probabilities."""
    from samba_asr import plot

    frames = len(heard.probabilities)
    begin, end = heard.start, heard.start + max(heard.result.duration, frames * heard.frame)
    rows = units(heard.probabilities)
    figure = plot.figure(min(40, max(8, 1.3 * (end - begin))), 5 + 0.17 * len(rows))
    words, mel, ctc = figure.subplots(3, 1, sharex=True, height_ratios=[0.6, 2.4, 0.4 + 0.17 * len(rows)])

    for n, word in enumerate(heard.result.words):
        left, right = begin + word.start, begin + word.end
        colour = figure_colour(word.confidence)
        words.axvspan(left, right, color=colour, alpha=0.6)
        words.text((left + right) / 2, 0.3 + 0.4 * (n % 2), word.text, ha="center", va="center", fontsize=8)
        for panel in (mel, ctc):
            panel.axvline(left, color=colour, linewidth=0.8)
    words.set(yticks=[], ylim=(0, 1), title="words, green where they are sure")

    mels = len(heard.centres)
    mel.imshow(
        heard.features.T,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="magma",
        extent=(begin, begin + len(heard.features) * heard.frame / 4, 0, mels),
    )
    ticks = range(0, mels, max(1, mels // 6))
    mel.set(ylabel="Hz", yticks=[i + 0.5 for i in ticks], yticklabels=[f"{heard.centres[i]:.0f}" for i in ticks])

    if rows:
        ctc.imshow(
            heard.probabilities[:, rows].T,
            aspect="auto",
            interpolation="nearest",
            cmap="Blues",
            vmin=0,
            vmax=1,
            extent=(begin, begin + frames * heard.frame, len(rows), 0),
        )
    ctc.set(
        yticks=[i + 0.5 for i in range(len(rows))], yticklabels=[heard.pieces[i].replace("\u2581", "_") for i in rows]
    )
    ctc.tick_params(axis="y", labelsize=7)
    ctc.set(xlabel="seconds", ylabel="units", xlim=(begin, end))
    return figure


def figure_colour(confidence: float) -> tuple[float, float, float]:
    """Red (0) over yellow to green (1)."""
    return (min(1.0, 2 - 2 * confidence) * 0.9, min(1.0, 2 * confidence) * 0.8, 0.2)
