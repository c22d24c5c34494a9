"""Augmentation by missing audio: parts of utterances are cut out, and the encoder is told how long each was.

A model that never met a gap has never seen what stands on its two sides join.  A part of up to `PACKET` seconds may lie
anywhere, as a lost packet.  Longer ones lie where it is quiet, as pauses that a gate leaves out: the words of a missing part
could not be learned.
Shapes: b utterances, s samples, t encoder frames.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST, PACKET, LONGEST = 0.2, 0.4, 3.0  # seconds of a part
MOST = 3  # parts of an utterance
PLACES = 8  # of which the quietest is chosen
QUIET_DB = 10.0  # a long part is so much quieter than the utterance
SHARE = 0.5  # of an utterance that may be missing


def cut_gaps(
    audio: Tensor, lengths: Tensor, generator: torch.Generator | None, *, probability: float, stride: int, rate: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut one to three parts out of each utterance, with this probability.

    audio: (b, s); lengths: (b,) samples; stride: samples of an encoder frame; parts are whole frames.
    Returns audio (b, s), zeros after its new lengths (b,), and the frames that are missing before each frame, (b, s / stride).
    """
    frames, t = (lengths // stride).tolist(), audio.shape[1] // stride
    power = F.pad(audio, (0, -audio.shape[1] % stride)).unflatten(1, (-1, stride)).square().mean(-1).cpu()  # (b, t)
    draw = lambda: torch.rand((), generator=generator).item()  # noqa: E731
    out, gap = torch.zeros_like(audio), torch.zeros(len(audio), t)
    new = lengths.clone()
    for row, n in enumerate(frames):
        kept = torch.ones(n, dtype=torch.bool)
        if draw() < probability:
            for _ in range(1 + int(draw() * MOST)):
                _cut(kept, power[row, :n], draw, rate / stride)
        at = kept.nonzero().flatten()  # frames that remain
        before = torch.cat([at.new_full((1,), -1), at])[:-1]
        gap[row, : len(at)] = (at - before - 1).to(gap.dtype)
        rest = audio[row, n * stride : int(lengths[row])]  # less than a frame
        samples = audio[row, : n * stride].view(n, stride)[at.to(audio.device)].flatten()
        new[row] = len(samples) + len(rest)
        out[row, : int(new[row])] = torch.cat([samples, rest])
    return out, new, gap.to(audio.device)


def _cut(kept: Tensor, power: Tensor, draw, per_second: float) -> None:
    """Cut one part out of an utterance, in place: kept (n,) bool, power (n,) of its frames.  The last frame always remains."""
    n = len(kept)
    width = round(per_second * SHORTEST * math.exp(draw() * math.log(LONGEST / SHORTEST)))
    places = [int(draw() * (n - width)) for _ in range(PLACES)]  # always as many draws
    if width >= n * SHARE or int((~kept).sum()) + width > n * SHARE:
        return
    start = places[0]
    if width > per_second * PACKET:
        start = min(places, key=lambda place: float(power[place : place + width].mean()))
        if float(power[start : start + width].mean()) > float(power.mean()) * 10 ** (-QUIET_DB / 10):
            return
    kept[start : start + width] = False
