"""Pictures of a recognition: spectrogram, probabilities of the units, words with their times, the matrix of a mixer."""

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
from samba_asr.models.matrix import layer_matrix
from samba_asr.recognizer import Recognizer
from samba_asr.result import Result
from samba_asr.runtime.whole import log_probs

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
    mixer: MixerPicture | None = None


@dataclass(frozen=True)
class MixerPicture:
    """How much each step of a layer's mixer reads of each other step."""

    layer: int  # from 1
    matrix: np.ndarray  # (t, t), as of `LayerMatrix`
    step: float  # seconds of a step
    block: int  # steps of a block


def explain(
    recognizer: Recognizer,
    samples: np.ndarray,
    *,
    rate: int | None = None,
    start: float = 0.0,
    latency_ms: float | None = None,
    mixer: int | None = None,
) -> Explanation:
    """Recognize samples (s,) of `rate` a second (default the model's), and keep the intermediate results.

    start: seconds of a longer recording where the samples begin.  mixer: layer, from 1, whose mixer's matrix is computed.
    """
    rate = rate or recognizer.rate
    latency = recognizer.final_latency(latency_ms)
    scores, _ = log_probs(recognizer.runtime, [samples], rate, latency)
    if recognizer.model is None:
        raise UserError(
            f"{recognizer.folder} is an exported model, which has no features to show: use the folder it was made from"
        )
    front = recognizer.model.features
    device = front.centers.device
    x = torch.from_numpy(resample(samples, rate, recognizer.rate)).to(device)[None, :, None]
    lengths = torch.tensor([x.shape[1]], device=device)
    with torch.inference_mode():
        features = front(x, lengths)[0][0]
        picture = None
        if mixer is not None:
            read = layer_matrix(recognizer.model, x[..., 0], lengths, mixer, latency.block)
            array, seconds = read.matrix.float().cpu().numpy(), recognizer.frame * read.rate
            picture = MixerPicture(mixer, array, seconds, max(1, latency.block // read.rate))
    return Explanation(
        start=start,
        features=features.float().cpu().numpy(),
        hop=front.stride / recognizer.rate,
        centers=front.centers.cpu().numpy(),
        probabilities=np.exp(scores),
        frame=recognizer.frame,
        pieces=tuple(recognizer.tokenizer.pieces(range(recognizer.tokenizer.vocab_size))),
        result=recognizer.recognize(samples, rate=rate, latency_ms=latency_ms),
        mixer=picture,
    )


def units(probabilities: np.ndarray) -> list[int]:
    """Return the units to draw: those with the highest maximum, in the order of the time of their maximum."""
    best = probabilities[:, 1:].max(axis=0, initial=0.0)
    chosen = [i + 1 for i in np.argsort(-best)[:MOST_UNITS] if best[i] >= SHOWN]
    return sorted(chosen, key=lambda i: int(np.argmax(probabilities[:, i])))


def draw(found: Explanation):
    """Draw panels over one axis of time: words, word lattice, spectrogram, the matrix of a mixer, probabilities.

    The lattice and the matrix only where there is one.
    """
    frames = len(found.probabilities)
    begin, end = found.start, found.start + max(found.result.duration, frames * found.frame)
    rows = units(found.probabilities)
    arcs = likeliest_arcs(found.result)
    levels = 1 + max((level for *_, level in arcs), default=-1)
    heights = {"words": 0.6, "mel": 2.4, "ctc": 0.4 + 0.17 * len(rows)}
    if arcs:
        heights = {"words": 0.6, "lattice": 0.3 + 0.16 * levels, **heights}
    if found.mixer:
        heights = {**heights, "mixer": 4.0}
    order = [name for name in ("words", "lattice", "mel", "mixer", "ctc") if name in heights]
    width = min(40, max(8, 1.3 * (end - begin)))
    figure = plot.figure(width, 2 + sum(heights.values()))
    panels = figure.subplots(len(order), 1, sharex=True, height_ratios=[heights[name] for name in order])
    panel_of = dict(zip(order, panels, strict=True))
    words, mel, ctc = (panel_of[name] for name in ("words", "mel", "ctc"))
    if arcs:
        draw_arcs(panel_of["lattice"], arcs, begin, levels)
    if found.mixer:
        draw_mixer(panel_of["mixer"], found.mixer, begin)

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


def draw_mixer(panel, found: MixerPicture, begin: float) -> None:
    """Draw the matrix of a mixer, with the borders of its blocks.  begin: seconds added to its times."""
    end = begin + len(found.matrix) * found.step
    strength = np.log10(np.maximum(found.matrix, 1e-4 * max(float(found.matrix.max()), 1e-30)))  # four decades
    panel.imshow(strength, aspect="auto", interpolation="nearest", cmap="viridis", extent=(begin, end, end, begin))
    for i in range(found.block, len(found.matrix), found.block):
        border = begin + i * found.step
        panel.axhline(border, color="white", linewidth=0.4)
        panel.axvline(border, color="white", linewidth=0.4)
    panel.set(ylim=(end, begin), ylabel="seconds of\nthe reading step")
    panel.set(title=f"mixer of layer {found.layer}: what each step (down) reads of each step (across), log scale")


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
