"""Decoding by libsndfile (package soundfile): WAV, FLAC, Ogg, AIFF, AU and similar formats."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import soundfile

from samba_asr.audio.ogg import Ogg
from samba_asr.audio.source import AudioError, Truncated

log = logging.getLogger(__name__)

SLACK_SECONDS = 0.1  # that a header may declare too much: encoder delay, last partial frame
_MOST_VALUES = 1 << 22  # per block: a header may declare 1024 channels and any rate
_CHUNK = 4096  # samples per call, which are lost if the call fails
_UNKNOWN_SIZE = 0x7FFFF000  # sox, FFmpeg and others write WAV sizes from here on into a pipe
_UNKNOWN_FRAMES = 2**62  # libsndfile's frame count of a FLAC stream of unknown length
# libsndfile's log of a header that declares more bytes than the file has.  RIFF sizes are often wrong and harmless.
_PROMISE = re.compile(r"(?:data|SSND|BODY|Data Size|Riff size|riff)\s*: (\d+) \(should be (\d+)\)")


def open_sound(name: str, file: Any, size: int, stack: contextlib.ExitStack) -> SoundFile | None:
    """Return the decoder, or None for files that libsndfile cannot read, or not to their end: use FFmpeg.

    Those are MP3, whose frame count is an estimate here; streams of unknown length; Ogg of several links in sequence,
    of which libsndfile reads only the first; and Vorbis with missing pages, whose times it loses.
    """
    ogg = Ogg.scan(file)
    if _begins_as_mpeg(file) or (ogg and ogg.for_ffmpeg):
        return None
    try:
        # It is no MP3 by its content.  libsndfile would believe the name, and its decoder complain on standard error: hide it.
        if isinstance(file, str) and file.lower().endswith(".mp3"):
            file = stack.enter_context(open(file, "rb"))  # noqa: SIM115
        opened: Any = os.fsencode(file) if isinstance(file, str) else _Seekable(file)
        sound = stack.enter_context(_Sequential(opened))
    except soundfile.LibsndfileError as error:
        log.debug("%s: libsndfile: %s", name, error)
        return None
    except TypeError:  # soundfile treats a name that ends in .raw as headerless samples
        raise AudioError(f"{name}: raw samples without a header: convert them to WAV first") from None
    unknown = sound.frames >= _UNKNOWN_FRAMES or (sound.frames == 0 and sound.format in ("WAV", "OGG") and size > 1000)
    if unknown or sound.subtype.startswith("MPEG"):
        return None
    return SoundFile(name, sound, ogg)


def head_of(file: Any, count: int) -> bytes:
    """Return the first `count` bytes of a path, or of a file object, which is rewound."""
    if isinstance(file, str):
        with open(file, "rb") as opened:
            return opened.read(count)
    file.seek(0)
    head = file.read(count)
    file.seek(0)
    return head


def _begins_as_mpeg(file: Any) -> bool:
    """Frame sync of MPEG audio: libsndfile's decoder of it writes to standard error by itself."""
    head = head_of(file, 3)
    return head == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0)


class _Seekable:
    """A binary file for libsndfile's callbacks, in which an exception would be printed: a damaged header makes it seek
    to anywhere."""

    def __init__(self, file: Any):
        self._file = file
        self.read, self.readinto, self.tell = file.read, getattr(file, "readinto", None), file.tell
        if self.readinto is None:
            del self.readinto

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with contextlib.suppress(ValueError, OSError, OverflowError):
            return self._file.seek(offset, whence)
        return -1

    def write(self, data: bytes) -> int:
        return 0


class _Sequential(soundfile.SoundFile):
    """A SoundFile that reports that it cannot seek.

    Otherwise soundfile seeks after every read, which restarts the decoders of lossy formats: Opus becomes inexact.
    """

    def seekable(self) -> bool:
        return False


class SoundFile:
    """Decoder of a file that libsndfile has opened."""

    def __init__(self, name: str, sound: soundfile.SoundFile, ogg: Ogg | None):
        self.name, self._sound, self._ogg = name, sound, ogg
        self.rate, self.channels = sound.samplerate, sound.channels

    def duration(self) -> float:
        """Seconds."""
        return self._sound.frames / self.rate

    def check_header(self) -> None:
        """Raise Truncated if the header declares more than the file holds."""
        text, readable = self._sound.extra_info, self.duration()
        if self._ogg and self._ogg.broken:
            raise Truncated(self.name, readable, "in the middle of an Ogg page")
        for said, have in (map(int, found) for found in _PROMISE.findall(text)):
            if have < said < _UNKNOWN_SIZE:
                promised = readable * said / max(have, 1)
                if not self._sound.frames or promised - readable > SLACK_SECONDS:
                    raise Truncated(self.name, readable, f"before the {promised:.2f} s that its header declares")

    def blocks(self, first: int, last: int | None, size: int) -> Iterator[np.ndarray]:
        """Yield samples `first` to `last` in blocks (s, c) of at most `size`.  Truncated is raised after all readable samples."""
        frames = self._sound.frames
        end = frames if last is None else min(last, frames)
        position, most = min(first, end), max(1, _MOST_VALUES // self.channels)
        error = None
        if position:
            error = self._tried(lambda: self._sound.seek(position))
        while position < end and error is None:
            block = np.empty((min(size, end - position, most), self.channels), np.float32)  # (s, c)
            filled = 0
            while filled < len(block) and error is None:
                into = block[filled : filled + _CHUNK]
                before = filled
                error = self._tried(lambda into=into: len(self._sound.read(out=into)))
                filled += self._count
                if filled - before < len(into):
                    break
            position += filled
            if filled:
                yield block[:filled]
            if filled < len(block):
                break
        if error is not None:
            log.debug("%s: libsndfile: %s", self.name, error)
            raise Truncated(
                self.name, position / self.rate, f"or is damaged before the {frames / self.rate:.2f} s it declares"
            )
        if (end - position) / self.rate > SLACK_SECONDS:
            raise Truncated(
                self.name, position / self.rate, f"before the {frames / self.rate:.2f} s that its header declares"
            )
        if last is None or last > frames:
            self.check_header()

    def _tried(self, call: Any) -> soundfile.LibsndfileError | None:
        """Call and return its error, or None; `_count` is its result."""
        self._count = 0
        try:
            self._count = call()
        except soundfile.LibsndfileError as error:
            return error
        return None
