"""Samples in memory, from callers: checks, and scaling by their type."""

from __future__ import annotations

from typing import Any

import numpy as np

from samba_asr.errors import UserError

RATES = range(1000, 768_001)  # samples per second that audio has
PEAK = 16.0  # above it, float samples are unscaled integers: a sound that overshoots stays far below
_SCALES = {"int8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31, "uint8": 2.0**7}


def as_samples(x: object, *, received: int = 0, rate: int | None = None) -> np.ndarray:
    """Convert one channel of audio to float32 (s,) in [-1, 1].  A float32 array is returned unchanged.

    x: an array, a tensor on the CPU or a list.  Integers of 8, 16 and 32 bits are divided by their full scale
    (unsigned bytes are centered at 128, as in WAV).  Floats keep their values.
    received: samples before these, and rate: samples per second; both only for the messages.
    UserError, with the fix, for text and bytes, integers without a usual full scale, floats that were never scaled,
    samples that are not finite, and any shape but (s,).
    """
    if isinstance(x, bytes | bytearray | memoryview):
        raise UserError(
            f"{len(x)} bytes are not samples: use np.frombuffer(chunk, np.int16) for raw audio, or "
            "transcribe(io.BytesIO(content)) for the content of a file"
        )
    try:
        samples = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor with gradients or on a GPU, a ragged list
        raise UserError(
            f"this {type(x).__name__} cannot be converted to samples ({_short(error)}): give float32 or int16 of shape "
            "(samples,); of a tensor, .detach().cpu()"
        ) from None
    if samples.dtype.kind not in "fiu":
        raise UserError(
            f"{type(x).__name__} of {samples.dtype} is not samples: give float32 in [-1, 1] or int16 of shape "
            "(samples,); for a file's path use transcribe"
        )
    if samples.ndim != 1:
        axis = 0 if samples.ndim > 1 and samples.shape[0] < samples.shape[-1] else 1
        fix = f"samples.mean(axis={axis})" if samples.ndim == 2 else "shape (samples,)"
        raise UserError(f"audio of shape {samples.shape}: mix it to one channel, {fix}")
    if samples.dtype.kind != "f":
        scale = _SCALES.get(samples.dtype.name)
        if scale is None and len(samples):
            raise UserError(
                f"integer samples of type {samples.dtype.name} have no usual full scale: use .astype(np.int16) if they lie "
                "in the range of 16 bits, or divide them to float32 in [-1, 1]"
            )
        center = 128.0 if samples.dtype.kind == "u" else 0.0
        return ((samples.astype(np.float64) - center) / (scale or 1.0)).astype(np.float32)
    finite = np.isfinite(samples)
    if not finite.all():
        at = int(np.argmin(finite))
        second = f" ({(received + at) / rate:.3f} s)" if rate else ""
        raise UserError(
            f"sample {received + at}{second} is {samples[at]}, not a finite number: leave it out, or make it 0"
        )
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > PEAK:
        raise UserError(
            f"float samples up to {peak:g} are outside [-1, 1]: divide them by the full scale (samples / 32768 for "
            "16 bits), or give them as int16"
        )
    return samples.astype(np.float32, copy=False)


def as_rate(rate: Any) -> int:
    """Return a sampling rate as an integer; UserError for a rate outside RATES."""
    try:
        if (whole := int(rate)) == rate and whole in RATES:
            return whole
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"rate={rate!r}: give samples per second, a whole number from {RATES.start} to {RATES.stop - 1}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
