"""Audio from wherever it comes: a file, an array, or something that yields arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from samba_asr.audio.read import stream


def pieces(source: Any, rate: int, seconds: float) -> Iterator[tuple[int, np.ndarray]]:
    """Audio as (samples a second, float32 (s,)): of a file in pieces of at most `seconds`, of arrays as they come.

    rate: of arrays that do not say theirs.
    """
    if hasattr(source, "__array__") or (isinstance(source, list | tuple) and source and np.isscalar(source[0])):
        yield rate, source
    elif isinstance(source, str | bytes | Path) or hasattr(source, "read"):
        for audio in stream(source, seconds):
            yield audio.rate, audio.samples
    else:
        rate = getattr(source, "rate", rate)
        for samples in source:
            yield rate, samples
