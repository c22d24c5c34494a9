"""Sound that every test can make, and files of it."""

from __future__ import annotations

import io

import numpy as np
import soundfile

RATE = 16000


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    envelope = np.repeat(rng.uniform(0, 0.3, int(seconds * 20) + 1), rate // 20)[: int(seconds * rate)]
    return (rng.standard_normal(int(seconds * rate)) * envelope).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = 16000, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()
