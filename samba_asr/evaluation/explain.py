"""Pictures of a recognition: spectrogram, probabilities of the units, words with their times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from samba_asr import plot
from samba_asr.audio.resample import resample
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from samba_asr.result import Result

LONGEST = 60.0  # seconds of a picture
MOST_UNITS = 28  # rows of the probabilities
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
    words, mel, ctc = figure.subplots(3, 1, sharex=True, height_ratios=[0.6, 2.4, 0.4 + 0.17 * len(rows)])

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


def color_of(confidence: float) -> tuple[float, float, float]:
    """Return a color from red (0) over yellow to green (1)."""
    return (min(1.0, 2 - 2 * confidence) * 0.9, min(1.0, 2 * confidence) * 0.8, 0.2)
