"""The one audio reader: any container -> mono float32 samples in [-1, 1] at the file's own rate.

WAV, FLAC, Ogg (Opus, Vorbis), MP3, AIFF, AU, ... through libsndfile (package soundfile); everything else (m4a, webm,
video) through FFmpeg (package PyAV, extra `av`).  A source is a path, the bytes of a file, or a binary file object.

What holds
- Channels are mixed by their mean.  Nothing is resampled: `resample.py` does that, where the caller can see it.
- Samples outside [-1, 1] (float files, and decoders of lossy formats overshoot) are clipped; a peak above 16 means
  that the file was never scaled, and is an error, as are NaN and inf.
- A file that promises more audio than it holds is an error that says how much was readable: an upload or download
  that broke off would otherwise become a transcript that no longer fits.  WAV, AIFF, AU, RF64, W64 and Ogg are
  noticed from the header (so by `info` too), FLAC, MP3, MP4 and Matroska when reading gets there.  Containers made
  to be written live promise nothing, and are read to their end: WAV with an unknown size, Ogg without an
  end-of-stream page, webm without a duration.  A promise missed by less than 0.1 s is taken for a sloppy header.
- A file without samples is an empty array; a file without bytes is an error.
- A part is the same samples as in the whole; only in Opus, whose decoder settles after a jump, within about 0.01.

Dimension letters: s samples, c channels.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile

from samba_asr.errors import UserError

log = logging.getLogger(__name__)

Source = str | os.PathLike | bytes | bytearray | memoryview | IO[bytes]

_BLOCK_SECONDS = 60.0  # what `read` decodes at a time
_SLACK_SECONDS = 0.1  # by so much may a header promise too much: encoder delay, last partial frame
_PEAK = 16.0  # above it, float samples are integers that nobody divided
_UNKNOWN_SIZE = 0x7FFFF000  # WAV sizes from here on are what sox, FFmpeg and others write into a pipe
_UNKNOWN_FRAMES = 2**62  # libsndfile's answer for a FLAC stream of unknown length
# libsndfile's log of a header that promises more bytes than the file has.  RIFF sizes are often wrong and harmless.
_PROMISE = re.compile(r"(?:data|SSND|Data Size|Riff size|riff)\s*: (\d+) \(should be (\d+)\)")
# Demuxers that FFmpeg may choose: no playlists, which name other files and addresses to open.
_DEMUXERS = (
    "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,aac,ac3,eac3,adts,mp3,flac,ogg,wav,w64,aiff,au,caf,asf,avi,flv,"
    "mpeg,mpegts,mpegvideo,amr,amrnb,amrwb,ape,tta,wv,dts,opus"
)


class AudioError(UserError):
    """A source that cannot be read as audio.  One line: the file, the cause and the fix."""


@dataclass(frozen=True)
class Audio:
    """`samples`: float32 (s,) in [-1, 1], mono; `rate`: samples a second."""

    samples: np.ndarray
    rate: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class AudioInfo:
    """What the header says: `duration` in seconds, `rate` in samples a second, `channels` before mixing."""

    duration: float
    rate: int
    channels: int


def read(source: Source, *, start: float = 0.0, duration: float | None = None) -> Audio:
    """The samples of `source` from `start` for `duration` seconds (None, or past the end: up to the end).

    A file object is read from its beginning, must be binary, and stays open.
    Raises AudioError; the ways a file can be wrong are listed at the top of this file.
    """
    pieces = list(stream(source, _BLOCK_SECONDS, start=start, duration=duration))
    if len(pieces) == 1:
        return pieces[0]
    return Audio(np.concatenate([piece.samples for piece in pieces]), pieces[0].rate)


def stream(
    source: Source, seconds: float = 10.0, *, start: float = 0.0, duration: float | None = None
) -> Iterator[Audio]:
    """`read` in pieces of `seconds` (the last is shorter), in constant memory, for files of any length.

    At least one piece comes, empty if there are no samples.  The pieces concatenated are what `read` returns.
    An error in the middle of the file is raised after the pieces before it.
    """
    if seconds <= 0:
        raise UserError(f"pieces of {seconds} seconds: give a positive number")
    if start < 0 or (duration is not None and duration < 0):
        raise UserError(f"start={start}, duration={duration}: seconds are not negative")
    with _open(source) as decoder:
        first = round(start * decoder.rate)
        last = None if duration is None else first + round(duration * decoder.rate)
        size = max(1, round(seconds * decoder.rate))
        position, pending, count = first, [], 0  # pending: `count` samples waiting to fill a piece
        any_piece = False
        for block in decoder.blocks(first, last, size):
            samples = _mono(block, decoder, position)
            position += len(samples)
            while count + len(samples) >= size:
                cut = size - count
                yield Audio(_join([*pending, samples[:cut]]), decoder.rate)
                any_piece = True
                samples, pending, count = samples[cut:], [], 0
            if len(samples):
                pending.append(samples)
                count += len(samples)
        if first > 0 and position == first and (last is None or last > first):
            raise AudioError(f"{decoder.name}: nothing to read from {start} s on: the audio is no longer than that")
        if count or not any_piece:
            yield Audio(_join(pending), decoder.rate)


def info(source: Source) -> AudioInfo:
    """Duration, rate and channels, from the header (for live containers without a duration: from the packets)."""
    with _open(source) as decoder:
        decoder.check_header()
        return AudioInfo(decoder.duration(), decoder.rate, decoder.channels)


def _join(pieces: list[np.ndarray]) -> np.ndarray:
    if len(pieces) == 1:
        return np.ascontiguousarray(pieces[0])
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def _mono(block: np.ndarray, decoder: _SoundFile | _Container, position: int) -> np.ndarray:
    """(s, c) -> (s,): checked, mixed, clipped.  `position` is the index of the block's first sample in the file."""
    finite = np.isfinite(block)
    if not finite.all():
        bad, channel = np.argwhere(~finite)[0]
        where = position + int(bad)
        raise AudioError(
            f"{decoder.name}: sample {where} ({where / decoder.rate:.3f} s) is {block[bad, channel]}: "
            "the file is damaged or was written wrongly; make it again"
        )
    samples = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)  # (s,)
    peak = np.abs(samples).max(initial=0.0)
    if peak > _PEAK:
        raise AudioError(
            f"{decoder.name}: float samples up to {peak:g} where [-1, 1] is meant: divide them by the full scale "
            "(32768 for 16 bits) when writing the file"
        )
    return np.clip(samples, -1.0, 1.0) if peak > 1.0 else samples


@contextlib.contextmanager
def _open(source: Source) -> Iterator[_SoundFile | _Container]:
    """The decoder for `source`: libsndfile, else FFmpeg.  Closes what it opened."""
    with contextlib.ExitStack() as stack:
        name, file, size = _as_file(source, stack)
        if size == 0:
            raise AudioError(f"{name}: the file is empty (0 bytes): record, copy or download it again")
        try:
            sound = stack.enter_context(_Sequential(file))
        except soundfile.LibsndfileError as error:
            log.debug("%s: libsndfile: %s", name, error)
        except TypeError:  # soundfile takes a name that ends in .raw for headerless samples
            raise AudioError(f"{name}: raw samples without a header: convert them to WAV first") from None
        else:
            unknown = sound.frames >= _UNKNOWN_FRAMES or (sound.frames == 0 and sound.format == "WAV" and size > 1000)
            if not unknown:
                yield _SoundFile(name, sound)
                return
        if isinstance(file, str):
            file = stack.enter_context(open(file, "rb"))
        file.seek(0)
        yield stack.enter_context(_Container(name, file))


def _as_file(source: Source, stack: contextlib.ExitStack) -> tuple[str, Any, int]:
    """(name for messages, path as a string or seekable binary file, bytes)."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{len(source)} bytes of audio>", io.BytesIO(source), len(source)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            raise AudioError(f"{path}: is a folder: name an audio file in it")
        try:
            with open(path, "rb") as file:
                return str(path), str(path), os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            raise AudioError(f"{path}: no such file: check the name and the folder (now in {Path.cwd()})") from None
        except OSError as error:
            raise AudioError(f"{path}: cannot be opened ({error.strerror}): check the file's permissions") from None
    name = str(getattr(source, "name", "<audio>"))
    if not source.seekable():  # a pipe: decoders want to seek, and memory is not for hours of audio
        spool = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
        shutil.copyfileobj(source, spool)
        source = spool
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return name, source, size


class _Sequential(soundfile.SoundFile):
    """soundfile seeks after every read of a file that says that it can seek, which makes the decoders of lossy formats
    start afresh there: MP3 gets gaps, Opus becomes inexact.  This one says that it cannot."""

    def seekable(self) -> bool:
        return False


class _SoundFile:
    """libsndfile's view of a file."""

    def __init__(self, name: str, sound: soundfile.SoundFile):
        self.name, self._sound = name, sound
        self.rate, self.channels = sound.samplerate, sound.channels

    def duration(self) -> float:
        return self._sound.frames / self.rate

    def check_header(self) -> None:
        """Raises if the header promises more than the file holds."""
        text, readable = self._sound.extra_info, self.duration()
        if "Junk after the last page" in text:
            raise _truncated(self.name, readable, "in the middle of an Ogg page")
        for said, have in (map(int, found) for found in _PROMISE.findall(text)):
            if have < said < _UNKNOWN_SIZE:
                promised = readable * said / max(have, 1)
                if not self._sound.frames or promised - readable > _SLACK_SECONDS:
                    raise _truncated(self.name, readable, f"before the {promised:.2f} s that its header promises")

    def blocks(self, first: int, last: int | None, size: int) -> Iterator[np.ndarray]:
        """Blocks (s, c) of at most `size` samples, of samples `first` to `last`."""
        frames = self._sound.frames
        end = frames if last is None else min(last, frames)
        if last is None or last > frames:
            self.check_header()
        position = min(first, end)
        try:
            if self._sound.format == "MP3":  # a frame may need bits of frames long before: seeking gives silence there
                for passed in range(0, position, size):
                    self._sound.read(min(size, position - passed), dtype="float32")
            elif position:
                self._sound.seek(position)
            while position < end:
                want = min(size, end - position)
                block = self._sound.read(want, dtype="float32", always_2d=True)  # (s, c)
                position += len(block)
                yield block
                if len(block) < want:
                    break
        except soundfile.LibsndfileError as error:
            log.debug("%s: libsndfile: %s", self.name, error)
            raise _truncated(
                self.name, position / self.rate, f"or is damaged before the {frames / self.rate:.2f} s it promises"
            ) from None
        if (end - position) / self.rate > _SLACK_SECONDS:
            raise _truncated(
                self.name, position / self.rate, f"before the {frames / self.rate:.2f} s that its header promises"
            )


class _Container:
    """FFmpeg's view of a file: the first audio stream of any container.  Closes `file`'s container, not `file`."""

    def __init__(self, name: str, file: IO[bytes]):
        self.name = name
        try:
            import av
        except ImportError:
            raise AudioError(
                f"{name}: not audio that libsndfile can read; m4a, webm and video need PyAV: "
                "pip install 'samba_asr[av]'; anything else: convert it to WAV"
            ) from None
        self._av = av
        not_audio = AudioError(f"{name}: not audio, or too damaged to open: check the file, or convert it to WAV")
        try:
            self._container = av.open(file, options={"format_whitelist": _DEMUXERS})
        except (av.error.FFmpegError, ValueError) as error:
            log.debug("%s: FFmpeg: %s", name, error)
            raise not_audio from None
        if not self._container.streams.audio:
            kinds = ", ".join(sorted({stream.type for stream in self._container.streams})) or "nothing"
            self._container.close()
            raise AudioError(f"{name}: holds no audio, only {kinds}: name a file with sound")
        self._stream = self._container.streams.audio[0]
        self.rate, self.channels = self._stream.rate, self._stream.channels
        if not self.rate:
            self._container.close()
            raise not_audio

    def __enter__(self) -> _Container:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def _promised(self) -> float | None:
        """Seconds according to the header, or None."""
        if self._stream.duration is not None:
            return float(self._stream.duration * self._stream.time_base)
        if len(self._container.streams) == 1 and self._container.duration:  # a video may outlast its sound
            return self._container.duration / self._av.time_base
        return None

    def check_header(self) -> None:
        """FFmpeg notices a missing end only by reading."""

    def duration(self) -> float:
        promised = self._promised()
        if promised is not None:
            return promised
        try:
            base, end = self._stream.time_base, 0.0
            for packet in self._container.demux(self._stream):
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * base))
        except self._av.error.FFmpegError as error:
            log.debug("%s: FFmpeg: %s", self.name, error)
            raise _truncated(self.name, end, "or is damaged") from None
        return end

    def blocks(self, first: int, last: int | None, size: int) -> Iterator[np.ndarray]:
        """Blocks (s, c) of samples `first` to `last`, as FFmpeg's frames come.  Decodes all before `first` too:
        seeking in these containers is not exact to the sample."""
        if last == first:
            return
        position = 0
        try:
            for frame in self._frames():
                block = frame.to_ndarray().T  # (s, c)
                skip, position = max(0, first - position), position + len(block)
                if last is not None and position >= last:
                    block = block[: len(block) - (position - last)]
                    yield block[skip:]
                    return
                if skip < len(block):
                    yield block[skip:]
        except (self._av.error.FFmpegError, ValueError) as error:
            log.debug("%s: FFmpeg: %s", self.name, error)
            raise _truncated(self.name, position / self.rate, "or is damaged there") from None
        promised = self._promised()
        if promised is not None and promised - position / self.rate > _SLACK_SECONDS:
            raise _truncated(self.name, position / self.rate, f"before the {promised:.2f} s that its header promises")

    def _frames(self) -> Iterator[Any]:
        planar = self._av.AudioResampler(format="fltp")
        for frame in self._container.decode(self._stream):
            yield from planar.resample(frame)
        yield from planar.resample(None)


def _truncated(name: str, readable: float, where: str) -> AudioError:
    return AudioError(
        f"{name}: ends {where}: {readable:.2f} s were readable: the copy broke off, fetch it again "
        "(or cut it there and save it anew)"
    )
