"""Sizes of a session's encoder blocks, by the settings of recognition."""

from __future__ import annotations

from samba_asr.config import DecodeConfig
from samba_asr.errors import UserError
from samba_asr.runtime.base import AcousticRuntime, Latency, latency_of

OVERLAP = 1 / 8
"""Share of a larger block that the next one computes again: 0.64 s of 5.12.  Without it `english` has 3 % more wrong words."""


def blocks(decode: DecodeConfig, runtime: AcousticRuntime, ms: float | None = None) -> Latency:
    """Return the encoder blocks of this latency, or of the one in the settings.  UserError if no blocks fit."""
    ms = decode.runtime.latency_ms if ms is None else ms
    return latency_of(ms, decode.runtime.overlap, runtime.frame, runtime.max_block)


def larger_blocks(decode: DecodeConfig, runtime: AcousticRuntime) -> Latency | None:
    """Return the blocks of decode.runtime.final_ms, if there are any.  UserError if no blocks fit."""
    if (ms := decode.runtime.final_ms) is None:
        return None
    try:
        return latency_of(ms, OVERLAP, runtime.frame, runtime.max_block)
    except UserError as error:
        raise UserError(f"decode.runtime.final_ms={ms:g}: {error}") from None


def final_blocks(decode: DecodeConfig, runtime: AcousticRuntime, ms: float | None = None) -> Latency:
    """Return the encoder blocks that final texts come from, as `Recognizer.final_latency`."""
    own, larger = blocks(decode, runtime, ms), larger_blocks(decode, runtime)
    return larger if larger and larger.block > own.block else own
