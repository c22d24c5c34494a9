"""The audio reader: any container -> mono float32 samples in [-1, 1] at the file's own rate.

WAV, FLAC, Ogg (Opus, Vorbis), AIFF, AU, ... through libsndfile (`sound_file.py`); MP3 and everything else (m4a, webm,
video) through FFmpeg (`container.py`).  A source is a path, `-` for standard input, the bytes of a file, a binary file
object (`source.py`), or the address of a file in a tar or Parquet shard (`archive.py`).

Contract
- A file is read until its decoder ends.  Frame counts and end times of headers are estimates.
- Channels are averaged.  Where they cancel each other (a plug of wrong polarity), the loudest channel is used alone, in
  windows of half a second, with a warning.  Nothing is resampled: the caller calls `resample.py`.
- Sound is placed at the time stamps of its container.  A late start or a hole is silence.
- Samples outside [-1, 1] are clipped: float files and lossy decoders overshoot.  A peak above 16 is an error, because the
  file was never scaled.  NaN, inf, and rates outside 1 to 768 kHz are errors too.
- A cut or damaged file is an error that says how much was readable, raised after the readable samples.  Otherwise a broken
  upload or download would give a transcript that does not fit.  WAV, AIFF, AU, RF64, W64, Ogg, MP4 and Matroska are checked
  by their outermost sizes (by `info` too), FLAC, MP3 and MPEG streams when reading reaches the damage.  Files written live
  declare no size and are read to their end: WAV of unknown size, Ogg without an end-of-stream page, webm without sizes.
  A declared end that is missed by less than 0.1 s is a sloppy header, not an error.
- A file without samples is an empty array.  A file without bytes is an error.
- A part has the same samples as in the whole.  In Opus, whose decoder settles after a seek, they agree within about 0.01.

Dimension letters: s samples, c channels.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from samba_asr.audio.archive import open_address, parse
from samba_asr.audio.container import Container
from samba_asr.audio.samples import PEAK, RATES
from samba_asr.audio.sound_file import open_sound
from samba_asr.audio.source import AudioError, Source, Truncated, as_file
from samba_asr.errors import UserError

__all__ = ["Audio", "AudioError", "AudioInfo", "Source", "Truncated", "channels", "info", "read", "stream"]

log = logging.getLogger(__name__)

_BLOCK_SECONDS = 60.0  # that `read` decodes at a time
_WINDOW_SECONDS = 0.5  # of the file, for each decision between the mean and one channel
_CANCELLED = 0.05  # of the channels' mean energy; a mean with less has lost the speech


class AudioDecoder(Protocol):
    """Decoder of one open file: libsndfile's or FFmpeg's."""

    name: str
    rate: int
    channels: int

    def duration(self) -> float: ...

    def check_header(self) -> None: ...

    def blocks(self, first: int, last: int | None, size: int) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True)
class Audio:
    """Mono audio.  samples: float32 (s,) in [-1, 1].  rate: samples per second."""

    samples: np.ndarray
    rate: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class AudioInfo:
    """Properties of a file by its header.  duration: seconds.  rate: samples per second.  channels: before mixing."""

    duration: float
    rate: int
    channels: int


def read(source: Source, *, start: float = 0.0, duration: float | None = None) -> Audio:
    """Read the samples of `source` from `start` for `duration` seconds (None, or past the end: up to the end).

    A file object must be binary.  It is read from its beginning, and stays open.
    AudioError for the faults listed at the top of this file.
    """
    pieces = list(stream(source, _BLOCK_SECONDS, start=start, duration=duration))
    if len(pieces) == 1:
        return pieces[0]
    return Audio(np.concatenate([piece.samples for piece in pieces]), pieces[0].rate)


def stream(
    source: Source,
    seconds: float = 10.0,
    *,
    start: float = 0.0,
    duration: float | None = None,
    channel: int | None = None,
) -> Iterator[Audio]:
    """Read in pieces of `seconds` (the last is shorter), in constant memory, for files of any length.

    There is at least one piece, empty if there are no samples.  The concatenated pieces are what `read` returns.
    channel: 1 is the first; None: the mix of all.  AudioError if there is no such channel.
    For an error in the middle of the file, Truncated, with the seconds, is raised after all samples before it.
    """
    if not 0 < seconds < float("inf"):
        raise UserError(f"pieces of {seconds} seconds: give a positive number")
    if not (0 <= start < float("inf")) or (duration is not None and not duration >= 0):
        raise UserError(f"start={start}, duration={duration}: give seconds that are not negative")
    with _open(source) as decoder:
        first = round(start * decoder.rate)
        last = None if duration is None or duration == float("inf") else first + round(duration * decoder.rate)
        size = max(1, round(seconds * decoder.rate))
        pending, count, position = [], 0, first  # pending: `count` samples waiting to fill a piece
        any_piece, broken = False, None
        samples = _mixed(decoder, first, last, size) if channel is None else _one(decoder, first, last, size, channel)
        while True:
            try:
                block = next(samples, None)
            except AudioError as error:
                block, broken = None, error
            if block is None:
                break
            position += len(block)
            while count + len(block) >= size:
                cut = size - count
                yield Audio(_join([*pending, block[:cut]]), decoder.rate)
                any_piece = True
                block, pending, count = block[cut:], [], 0
            if len(block):
                pending.append(block)
                count += len(block)
        if count:
            yield Audio(_join(pending), decoder.rate)
            any_piece = True
        if broken is not None:
            raise broken
        if first > 0 and position == first and (last is None or last > first):
            raise AudioError(f"{decoder.name}: nothing to read from {start} s on: the audio is no longer than that")
        if not any_piece:
            yield Audio(_join([]), decoder.rate)


def info(source: Source) -> AudioInfo:
    """Return duration, rate and channels from the header; the duration from the packets if it is an estimate there (MP3)."""
    with _open(source) as decoder:
        decoder.check_header()
        return AudioInfo(decoder.duration(), decoder.rate, decoder.channels)


def channels(source: Source) -> int:
    """Return the number of channels of a file."""
    with _open(source) as decoder:
        return decoder.channels


def _join(pieces: list[np.ndarray]) -> np.ndarray:
    if len(pieces) == 1:
        return np.ascontiguousarray(pieces[0])
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def _mixed(decoder: AudioDecoder, first: int, last: int | None, size: int) -> Iterator[np.ndarray]:
    """Yield mono samples (s,) from `first` to `last`, in blocks of any length.

    The mix is chosen in windows at fixed places of the file, so that samples depend neither on the block size nor on `first`.
    """
    if decoder.channels == 1:
        yield from _one(decoder, first, last, size, 1)
        return
    window = max(1, round(_WINDOW_SECONDS * decoder.rate))
    at = first - first % window
    end = None if last is None else -(-last // window) * window
    mixer = _Mixer(decoder.name, decoder.rate)
    waiting: list[np.ndarray] = []  # blocks (s, c) from sample `at` on
    blocks, broken, more = decoder.blocks(at, end, size), None, True
    while more:
        try:
            block = next(blocks, None)
        except AudioError as error:
            block, broken = None, error
        more = block is not None
        if block is not None:
            waiting.append(block)
        have = sum(map(len, waiting))
        ready = have - have % window if more else have
        if not ready:
            continue
        joined = np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
        for begin in range(0, ready, window):
            here = joined[begin : min(begin + window, ready)]
            skip, stop = max(0, first - at), len(here) if last is None else min(len(here), last - at)
            if skip < stop:
                mono = mixer(here, at)
                yield _checked(mono[skip:stop], here[skip:stop], decoder, at + skip)
            at += len(here)
        waiting = [joined[ready:]]
    if broken is not None and (last is None or at < last):
        raise broken


def _one(decoder: AudioDecoder, first: int, last: int | None, size: int, channel: int) -> Iterator[np.ndarray]:
    """Yield the samples (s,) of one channel from `first` to `last`, in blocks of any length."""
    if not 1 <= channel <= decoder.channels:
        raise AudioError(f"{decoder.name}: no channel {channel}: it has {decoder.channels}")
    position = first
    for block in decoder.blocks(first, last, size):
        yield _checked(np.ascontiguousarray(block[:, channel - 1]), block, decoder, position)
        position += len(block)


class _Mixer:
    """Windows (s, c) -> (s,): the mean, or the loudest channel if the channels cancel each other in the mean."""

    def __init__(self, name: str, rate: int):
        self.name, self.rate, self._said = name, rate, False

    def __call__(self, window: np.ndarray, position: int) -> np.ndarray:
        with np.errstate(invalid="ignore", over="ignore"):  # the caller checks for values that are not finite
            mean = window.mean(axis=1, dtype=np.float32)
            energy = np.einsum("sc,sc->c", window, window, dtype=np.float64)
            mixed = np.einsum("s,s->", mean, mean, dtype=np.float64)
        if not mixed < _CANCELLED * energy.mean():  # NaN too
            return mean
        # the first of the loudest, within a factor of 2: no switching between x and -x from window to window
        channel = int(np.argmax(energy > 0.5 * energy.max()))
        if not self._said:
            self._said = True
            log.warning(
                "%s: the channels cancel each other at %.2f s (opposite phase): channel %d is used alone where they do",
                self.name,
                position / self.rate,
                channel + 1,
            )
        return np.ascontiguousarray(window[:, channel])


def _checked(samples: np.ndarray, block: np.ndarray, decoder: AudioDecoder, position: int) -> np.ndarray:
    """Clip `samples` (s,).  block (s, c): their channels.  position: of the first sample in the file.  AudioError if unusable."""
    finite = np.isfinite(block)
    if not finite.all():
        bad, channel = np.argwhere(~finite)[0]
        where = position + int(bad)
        raise AudioError(
            f"{decoder.name}: sample {where} ({where / decoder.rate:.3f} s) is {block[bad, channel]}: "
            "the file is damaged or was written wrongly: make it again"
        )
    peak = np.abs(samples).max(initial=0.0)
    if peak > PEAK:
        raise AudioError(
            f"{decoder.name}: float samples up to {peak:g} are outside [-1, 1]: divide them by the full scale "
            "(32768 for 16 bits) when writing the file"
        )
    return np.clip(samples, -1.0, 1.0) if peak > 1.0 else samples


@contextlib.contextmanager
def _open(source: Source) -> Iterator[AudioDecoder]:
    """Open the decoder for `source`: libsndfile, else FFmpeg.  It is closed at the end of the block."""
    with contextlib.ExitStack() as stack:
        address = parse(os.fsdecode(source)) if isinstance(source, str | os.PathLike) else None
        name, file, size = open_address(address, stack) if address else as_file(source, stack)
        if size == 0:
            raise AudioError(f"{name}: the file is empty (0 bytes): record, copy or download it again")
        decoder = open_sound(name, file, size, stack)
        if decoder is None:
            if isinstance(file, str):
                file = stack.enter_context(open(file, "rb"))
            decoder = stack.enter_context(Container(name, file))
        if decoder.rate not in RATES:
            raise AudioError(f"{name}: {decoder.rate} samples per second, outside 1 to 768 kHz: correct the header")
        yield decoder
