"""Pictures of a recognition: spectrogram, probabilities of the units, words with their times."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from samba_asr import plot
from samba_asr.audio.resample import resample
from samba_asr.decoding.posteriors import posteriors
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from samba_asr.result import Result

LONGEST = 60.0  # seconds of a picture
MOST_UNITS = 28  # rows of the probabilities
SEEN = 0.02  # words of a lattice whose posterior is below this are not drawn
SHOWN = 0.05  # units whose probability stays below this have no row


@dataclass(frozen=True)
class Explanation:
    """Features, probabilities and text of a stretch of audio."""

    start: float  # seconds of the file where the stretch begins
    features: np.ndarray  # (t, m) log-mel, `hop` seconds each
    hop: float
    centers: np.ndarray  # (m,) Hz
    probabilities: np.ndarray  # (t, v), `frame` seconds each
    frame: float
    pieces: tuple[str, ...]  # of the units
    result: Result


def explain(
    recognizer: Recognizer,
    samples: np.ndarray,
    *,
    rate: int | None = None,
    start: float = 0.0,
    latency_ms: float | None = None,
) -> Explanation:
    """Recognize samples (s,) of `rate` a second (default the model's), and keep the intermediate results.

    start: seconds of a longer recording where the samples begin.
    """
    rate = rate or recognizer.rate
    log_probs, _ = recognizer.log_probs([samples], rate, latency_ms)
    if recognizer.model is None:
        raise UserError(
            f"{recognizer.folder} is an exported model, which has no features to show: use the folder it was made from"
        )
    front = recognizer.model.features
    device = front.centers.device
    x = torch.from_numpy(resample(samples, rate, recognizer.rate)).to(device)[None, :, None]
    with torch.inference_mode():
        features = front(x, torch.tensor([x.shape[1]], device=device))[0][0]
    return Explanation(
        start=start,
        features=features.float().cpu().numpy(),
        hop=front.stride / recognizer.rate,
        centers=front.centers.cpu().numpy(),
        probabilities=np.exp(log_probs),
        frame=recognizer.frame,
        pieces=tuple(recognizer.tokenizer.pieces(range(recognizer.tokenizer.vocab_size))),
        result=recognizer.recognize(samples, rate=rate, latency_ms=latency_ms),
    )


def units(probabilities: np.ndarray) -> list[int]:
    """Return the units to draw: those with the highest maximum, in the order of the time of their maximum."""
    best = probabilities[:, 1:].max(axis=0, initial=0.0)
    chosen = [i + 1 for i in np.argsort(-best)[:MOST_UNITS] if best[i] >= SHOWN]
    return sorted(chosen, key=lambda i: int(np.argmax(probabilities[:, i])))


def draw(found: Explanation):
    """Draw three panels over one axis of time: words, spectrogram, probabilities."""
    frames = len(found.probabilities)
    begin, end = found.start, found.start + max(found.result.duration, frames * found.frame)
    rows = units(found.probabilities)
    figure = plot.figure(min(40, max(8, 1.3 * (end - begin))), 5 + 0.17 * len(rows))
    arcs = likeliest_arcs(found.result)
    levels = 1 + max((level for *_, level in arcs), default=-1)
    heights = [0.6, 2.4, 0.4 + 0.17 * len(rows)]
    if arcs:
        figure.set_figheight(figure.get_figheight() + 0.3 + 0.16 * levels)
        words, lattice, mel, ctc = figure.subplots(
            4, 1, sharex=True, height_ratios=[heights[0], 0.3 + 0.16 * levels, *heights[1:]]
        )
        draw_arcs(lattice, arcs, begin, levels)
    else:
        words, mel, ctc = figure.subplots(3, 1, sharex=True, height_ratios=heights)

    for n, word in enumerate(found.result.words):
        left, right = begin + word.start, begin + word.end
        color = color_of(word.confidence)
        words.axvspan(left, right, color=color, alpha=0.6)
        words.text((left + right) / 2, 0.3 + 0.4 * (n % 2), word.text, ha="center", va="center", fontsize=8)
        for panel in (mel, ctc):
            panel.axvline(left, color=color, linewidth=0.8)
    words.set(yticks=[], ylim=(0, 1), title="words, green if confident")

    mels = len(found.centers)
    mel.imshow(
        found.features.T,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="magma",
        extent=(begin, begin + len(found.features) * found.hop, 0, mels),
    )
    ticks = range(0, mels, max(1, mels // 6))
    mel.set(ylabel="Hz", yticks=[i + 0.5 for i in ticks], yticklabels=[f"{found.centers[i]:.0f}" for i in ticks])

    if rows:
        ctc.imshow(
            found.probabilities[:, rows].T,
            aspect="auto",
            interpolation="nearest",
            cmap="Blues",
            vmin=0,
            vmax=1,
            extent=(begin, begin + frames * found.frame, len(rows), 0),
        )
    ctc.set(
        yticks=[i + 0.5 for i in range(len(rows))], yticklabels=[found.pieces[i].replace("\u2581", "_") for i in rows]
    )
    ctc.tick_params(axis="y", labelsize=7)
    ctc.set(xlabel="seconds", ylabel="units", xlim=(begin, end))
    return figure


def likeliest_arcs(result: Result) -> list[tuple[str, float, float, float, int]]:
    """Return the words of the lattices with a posterior of `SEEN` and more: text, start, end (seconds), posterior, level.

    Words of one level do not overlap; the likelier ones have lower levels.
    """
    found: dict[tuple[str, float, float], float] = {}
    for segment in result.segments:
        if segment.lattice is not None:
            shares = posteriors(segment.lattice, [0.5])[0].tolist()
            lattice = segment.lattice
            for text, first, last, share in zip(
                lattice.texts, lattice.first.tolist(), lattice.last.tolist(), shares, strict=True
            ):
                if text:
                    found[text, first, last] = found.get((text, first, last), 0.0) + share
    placed: list[tuple[str, float, float, float, int]] = []
    for (text, first, last), share in sorted(found.items(), key=lambda item: -item[1]):
        if share >= SEEN:
            taken = {level for _, a, b, _, level in placed if a < last and first < b}
            placed.append((text, first, last, share, next(n for n in itertools.count() if n not in taken)))
    return placed


def draw_arcs(panel, arcs: Sequence[tuple[str, float, float, float, int]], begin: float, levels: int) -> None:
    """Draw the words of a lattice as bars, the likelier the darker and the higher.  begin: seconds added to their times."""
    for text, first, last, share, level in arcs:
        y = levels - 1 - level
        panel.barh(
            y, last - first, left=begin + first, height=0.86, color=plot_blue(share), edgecolor="white", linewidth=0.5
        )
        panel.text(begin + (first + last) / 2, y, text, ha="center", va="center", fontsize=6, clip_on=True)
    panel.set(yticks=[], ylim=(-0.6, levels - 0.4), title="word lattice, the likelier the darker")


def plot_blue(share: float) -> tuple[float, float, float]:
    """Return a blue, the darker the greater the share."""
    return (0.95 - 0.55 * share, 0.97 - 0.35 * share, 1.0)


def color_of(confidence: float) -> tuple[float, float, float]:
    """Return a color from red (0) over yellow to green (1)."""
    return (min(1.0, 2 - 2 * confidence) * 0.9, min(1.0, 2 * confidence) * 0.8, 0.2)
