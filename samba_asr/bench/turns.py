"""Talks for `samba-asr bench serve --turns`: utterances with silence between them, and how ends of turn meet their ends.

An end of turn is early if it comes before the last sound of its utterance, by the level of the audio.  The first one after that
sound is on time, and its delay is counted from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from samba_asr.errors import UserError

PAUSE = 2.0  # seconds of silence after an utterance
SILENCE = 0.001  # its level: noise at -60 dBFS
QUIET = 0.02  # of the loudest 10 ms of an utterance: less is no sound


class Talk(NamedTuple):
    """Speech of one client."""

    samples: np.ndarray  # (s,) float32
    text: str
    sounds: tuple[tuple[float, float], ...]  # seconds: first and last sound of each utterance


class Notice(NamedTuple):
    """A message that a turn may be over."""

    until: float  # seconds of audio after which it came
    at: float  # seconds since the talk began


def talks(manifest: Path, rate: int, seconds: float, count: int = 8) -> list[Talk]:
    """Make up to `count` talks of whole utterances, each of at least `seconds`.  UserError if there is not one."""
    from samba_asr.data.dataset import AudioStore
    from samba_asr.data.manifest import read_manifest

    if not manifest.is_file():
        raise UserError(f"{manifest}: no such manifest; name one with --data")
    store, rng, found = AudioStore(rate, cache=False), np.random.default_rng(0), []
    parts, texts, sounds, length = [], [], [], 0
    for utterance in read_manifest(manifest):
        samples = store.load(utterance)
        first, last = voiced(samples, rate)
        sounds.append((length / rate + first, length / rate + last))
        texts.append(utterance.text)
        silence = (SILENCE * rng.standard_normal(round(PAUSE * rate))).astype(np.float32)
        parts += [samples, silence]
        length += len(samples) + len(silence)
        if length >= seconds * rate:
            found.append(Talk(np.concatenate(parts), " ".join(texts), tuple(sounds)))
            parts, texts, sounds, length = [], [], [], 0
            if len(found) == count:
                break
    if not found:
        raise UserError(f"{manifest} has less audio than --seconds {seconds:g}")
    return found


def voiced(samples: np.ndarray, rate: int) -> tuple[float, float]:
    """Return the seconds of the first and the last sound."""
    size = rate // 100
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    level = np.sqrt((frames**2).mean(1))
    (loud,) = np.nonzero(level >= QUIET * level.max(initial=0.0))
    return (loud[0] / 100, (loud[-1] + 1) / 100) if len(loud) else (0.0, 0.0)


def judge(sounds: Sequence[tuple[float, float]], notices: Iterable[Notice]) -> tuple[list[float], int]:
    """Return the delays of those on time, and the number of early ones.  sounds: of each utterance, as in `Talk`."""
    delays, early, met = [], 0, set()
    for notice in notices:
        begun = [n for n, (first, _) in enumerate(sounds) if first <= notice.until]
        if not begun or notice.until < sounds[begun[-1]][1]:
            early += 1
        elif begun[-1] not in met:
            met.add(begun[-1])
            delays.append(notice.at - sounds[begun[-1]][1])
    return delays, early
