"""Sounds that are not speech, to count the words that a recognizer finds in them; synthetic, float32 (s,), about -30 dBFS."""

from __future__ import annotations

import numpy as np

from samba_asr.audio.augment import make_noise

LEVEL = 0.03
CHORDS = ((0, 4, 7, 12), (-3, 0, 4, 9), (-7, -3, 0, 5), (-5, -1, 2, 7))  # semitones above the key: I vi IV V
BEAT = 0.5  # seconds


def signals(seconds: float, rate: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Make silence, noise of three colors, mains hum, clicks, and music: chords with a tune above them."""
    rng, n = np.random.default_rng(seed), int(seconds * rate)
    t = np.arange(n) / rate
    hum = sum(np.sin(2 * np.pi * 50 * k * t) / k for k in (1, 2, 3, 5))
    clicks = np.where(rng.random(n) < 3 / rate, rng.uniform(5, 15, n), 0.0)
    found = {"silence": np.zeros(n), "hum": hum, "clicks": clicks, "music": _music(n, rate, rng)}
    found |= {f"{color} noise": make_noise(n, color, rng) for color in ("white", "pink", "brown")}
    return {name: (LEVEL * samples).clip(-1, 1).astype(np.float32) for name, samples in found.items()}


def _music(n: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    size, found = int(BEAT * rate), np.zeros(n)
    for beat, at in enumerate(range(0, n, size)):
        chord = CHORDS[beat // 4 % len(CHORDS)]
        tune = chord[rng.integers(len(chord))] + 12
        for semitone, loud in [(s, 0.5) for s in chord] + [(tune, 1.0)]:
            found[at : at + size] += loud * _note(220 * 2 ** (semitone / 12), min(size, n - at), rate)
    return found


def _note(hertz: float, n: int, rate: int) -> np.ndarray:
    """Make a tone of six decaying harmonics, like a plucked string."""
    t = np.arange(n) / rate
    return sum((np.sin(2 * np.pi * hertz * k * t) * np.exp(-3 * k * t) / k for k in range(1, 7)), np.zeros(n))
