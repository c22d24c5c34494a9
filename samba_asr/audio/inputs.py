"""Audio inputs of any kind: a file, an array, or an iterable of arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from samba_asr.audio.ahead import ahead
from samba_asr.audio.read import stream
from samba_asr.errors import UserError

FILES = str | os.PathLike | bytes | bytearray | memoryview  # names of files, and their bytes


def pieces(source: Any, rate: int, seconds: float, channel: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (samples per second, float32 (s,)): of a file, pieces of at most `seconds`; of an iterable, its arrays.

    rate: of arrays whose source has no `rate`.  channel: of a file, 1 is the first (None: the mix of all).
    UserError for a source that is none of these.
    """
    _check(source)
    if _is_array(source):
        yield rate, source
    elif isinstance(source, FILES) or hasattr(source, "read"):
        for audio in ahead(stream(source, seconds, channel=channel)):
            yield audio.rate, audio.samples
    else:
        rate = getattr(source, "rate", rate)
        for samples in source:
            yield rate, samples


def _is_array(source: Any) -> bool:
    numbers = isinstance(source, list | tuple) and len(source) > 0 and np.isscalar(source[0])
    return hasattr(source, "__array__") or numbers


def _check(source: Any) -> None:
    if isinstance(source, tuple) and len(source) == 2 and any(np.ndim(part) == 1 for part in source):
        raise UserError("a pair of samples and their rate: give them apart, transcribe(samples, rate=rate)")
    if isinstance(source, Mapping) or not (hasattr(source, "read") or isinstance(source, Iterable | os.PathLike)):
        raise UserError(
            f"no audio is in this {type(source).__name__}: give a path, bytes or a file object, an array of samples, or "
            "something that yields arrays"
        )
