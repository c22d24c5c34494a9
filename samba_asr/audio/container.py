"""Decoding by FFmpeg (package PyAV): the first audio stream of MP3, m4a, webm, Matroska, video and many more.

Frames of a container are placed at their time stamps, so that the times of words fit the video.  A late start or a gap
becomes silence, up to one hour plus the duration decoded so far.  If time stamps jump farther, or back, the recorder's clock
was probably set, and the sound continues without a gap.  A raw stream (MP3, ADTS) has no time stamps: its samples are counted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import IO, Any

import numpy as np

from samba_asr.audio.ogg import Ogg
from samba_asr.audio.sound_file import SLACK_SECONDS
from samba_asr.audio.source import AudioError, Truncated

log = logging.getLogger(__name__)

# Demuxers that FFmpeg may choose: no playlists, which name other files and addresses to open.
_DEMUXERS = (
    "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,aac,ac3,eac3,adts,mp3,flac,ogg,wav,w64,aiff,au,caf,asf,avi,flv,"
    "mpeg,mpegts,mpegvideo,amr,amrnb,amrwb,ape,tta,wv,dts,opus"
)
_FROM_ZERO = {"matroska", "mov", "ogg"}  # their time stamps begin at 0
_FROM_START = {"mpegts", "mpeg", "flv", "asf"}  # their time stamps begin anywhere, with the first frame of any stream
_SILENCE_SECONDS = 3600.0  # of gaps, besides as much as was decoded
_POINTERS = 8  # planes in FFmpeg's frame structure; with more, PyAV 18 reads past the list and crashes
_NEW_STREAMS = 64  # that may appear in the middle of a file, as in a recording of television
_BLOCK = 1 << 16  # samples of silence at a time


class Container:
    """Samples of the first audio stream of any container.  Closes FFmpeg's container, not `file`."""

    def __init__(self, name: str, file: IO[bytes]):
        import av
        import av.error

        self.name, self._av = name, av
        self._position = 0  # samples emitted so far, silence included
        not_audio = AudioError(f"{name}: not audio, or too damaged to open: check the file, or convert it to WAV")
        try:
            self._broken, self._xing = _broken(file), _xing_frames(file)
            file.seek(0)
            self._container = av.open(file, "r", options={"format_whitelist": _DEMUXERS})
        except (av.error.FFmpegError, ValueError) as error:
            log.debug("%s: FFmpeg: %s", name, error)
            if self._broken:
                raise Truncated(name, 0.0, "before the part that is needed to open it") from None
            raise not_audio from None
        if not self._container.streams.audio:
            kinds = ", ".join(sorted({stream.type for stream in self._container.streams})) or "nothing"
            self._container.close()
            raise AudioError(f"{name}: holds no audio, only {kinds}: name a file with sound")
        self._stream = self._container.streams.audio[0]
        try:
            self.rate, self.channels = self._stream.rate, self._stream.channels
        except (AttributeError, ValueError):  # a codec that this FFmpeg does not have
            self.rate = self.channels = 0
        if not self.rate or not self.channels:
            self._container.close()
            raise not_audio
        format = self._container.format.name.split(",")[0]
        start = (self._container.start_time or 0) / av.time_base
        self._origin = 0.0 if format in _FROM_ZERO else start if format in _FROM_START else None
        self._mp3, self._header_knows = format == "mp3", format in _FROM_ZERO - {"ogg"}

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def check_header(self) -> None:
        """Raise Truncated if the outermost box declares more bytes than the file has."""
        if self._broken:
            seconds = self.duration()
            raise Truncated(self.name, seconds, "before its outermost part does")

    @property
    def _time_base(self) -> Fraction:
        """Seconds of a tick of the stream's clock."""
        base = self._stream.time_base
        assert base is not None  # FFmpeg gives one to every stream of sound
        return base

    def duration(self) -> float:
        """Return seconds, from the header if reliable, else from all packets.  That reads the file but decodes nothing."""
        stream, header = self._stream, self._container.duration
        if self._header_knows and not self._broken:
            if stream.duration and stream.start_time is not None:
                return float((stream.start_time + stream.duration) * self._time_base)
            if len(self._container.streams) == 1 and header:  # a video may outlast its sound
                return header / self._av.time_base
        base, end, total, count = self._time_base, 0.0, 0.0, 0
        try:
            for packet in self._packets():
                if packet.size:
                    count, total = count + 1, total + float((packet.duration or 0) * base)
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * base))
        except self._av.error.FFmpegError as error:
            log.debug("%s: FFmpeg: %s", self.name, error)
            raise Truncated(self.name, end, "or is damaged") from None
        if self._origin is not None:
            return max(0.0, end - self._origin)
        if self._mp3 and self._xing and count >= self._xing and stream.duration and count - self._xing < 3:
            return float(stream.duration * base)  # the header knows the encoder's delay too
        return total

    def blocks(self, first: int, last: int | None, size: int) -> Iterator[np.ndarray]:
        """Yield samples `first` to `last` in blocks (s, c) of any length.  Truncated is raised after all readable samples.

        All samples before `first` are decoded too, because seeking in these containers is not exact to the sample.
        """
        if last == first:
            return
        position = 0
        for block in self._timed():
            skip, position = max(0, first - position), position + len(block)
            if last is not None and position >= last:
                block = block[: len(block) - (position - last)]
                yield block[skip:]
                return
            if skip < len(block):
                yield block[skip:]

    def _timed(self) -> Iterator[np.ndarray]:
        """Yield blocks (s, c) from the beginning, with silence where the time stamps have a gap."""
        silence = shift = 0  # shift: samples by which the time stamps are ahead of `_position`
        slack, most = SLACK_SECONDS * self.rate, _SILENCE_SECONDS * self.rate
        for at, block in self._decoded():
            if at is not None:
                gap = at - shift - self._position
                if gap > slack and silence + gap <= most + self._position:
                    log.info(
                        "%s: no sound from %.2f s to %.2f s",
                        self.name,
                        self._position / self.rate,
                        (self._position + gap) / self.rate,
                    )
                    silence += gap
                    while gap > 0:
                        yield np.zeros((min(gap, _BLOCK), self.channels), np.float32)
                        self._position, gap = self._position + min(gap, _BLOCK), gap - _BLOCK
                elif abs(gap) > slack:
                    log.log(
                        logging.DEBUG if shift else logging.WARNING,
                        "%s: time stamps jump by %.1f s at %.2f s: the sound goes on there without a gap",
                        self.name,
                        gap / self.rate,
                        self._position / self.rate,
                    )
                    shift += gap
            self._position += len(block)
            yield block

    def _decoded(self) -> Iterator[tuple[int | None, np.ndarray]]:
        """Yield each frame: (time in samples, None if the container has none; samples (s, c)).

        A packet that cannot be decoded is passed over while all such are shorter than SLACK_SECONDS.
        """
        lost, bad, packets = 0.0, None, 0
        try:
            for packet in self._packets():
                packets += packet.size > 0
                try:
                    frames = packet.decode()
                except self._av.error.EOFError:
                    frames = []
                except (self._av.error.FFmpegError, ValueError) as error:
                    log.debug("%s: FFmpeg: %s", self.name, error)
                    bad = self._position / self.rate
                    lost += float((packet.duration or 0) * self._time_base)
                    if lost > SLACK_SECONDS:
                        raise Truncated(self.name, bad, "or is damaged there") from None
                    continue
                for frame in frames:
                    bad = None
                    if frame.samples:
                        yield self._time(frame), self._samples(frame)
        except (self._av.error.FFmpegError, MemoryError, OverflowError, ValueError) as error:
            if isinstance(error, AudioError):
                raise
            log.debug("%s: FFmpeg: %s", self.name, error)
            raise Truncated(self.name, self._position / self.rate, "or is damaged there") from None
        if bad is not None and not self._mp3:  # bad packets at the end of an MP3 are often a tag
            raise Truncated(self.name, bad, "in the middle of a packet")
        if self._broken:
            raise Truncated(self.name, self._position / self.rate, "before its outermost part does")
        if self._mp3 and self._xing:
            promised = self._xing * (1152 if self.rate >= 32000 else 576) / self.rate
            if promised * (1 - packets / self._xing) > SLACK_SECONDS:
                readable = self._position / self.rate
                raise Truncated(self.name, readable, f"before the {promised:.2f} s that its header declares")

    def _packets(self) -> Iterator[Any]:
        """Yield the stream's packets.  PyAV raises IndexError once for each stream that appears in the middle of a file."""
        for _ in range(_NEW_STREAMS):
            try:
                yield from self._container.demux(self._stream)
                return
            except IndexError as error:
                log.debug("%s: a new stream: %s", self.name, error)
        raise self._av.error.InvalidDataError(0, "too many streams appear on the way")

    def _time(self, frame: Any) -> int | None:
        if self._origin is None or frame.pts is None:
            return None
        return round((float(frame.pts * frame.time_base) - self._origin) * self.rate)

    def _samples(self, frame: Any) -> np.ndarray:
        """Convert a frame of any sample format to (s, c) float32."""
        if frame.sample_rate != self.rate:
            raise AudioError(
                f"{self.name}: its rate changes from {self.rate} to {frame.sample_rate} samples per second: "
                "convert it to WAV of one rate"
            )
        count = len(frame.layout.channels)
        if frame.format.is_planar and count > _POINTERS:
            (frame,) = self._av.AudioResampler(format=frame.format.packed.name).resample(frame)
        found = frame.to_ndarray()
        block = found.T if frame.format.is_planar else found.reshape(-1, count)  # (s, c)
        if block.dtype == np.uint8:
            block = (block.astype(np.float32) - 128) / 128
        elif block.dtype.kind == "i":
            block = block.astype(np.float32) / -float(np.iinfo(block.dtype).min)
        if count != self.channels:
            block = np.repeat(block.mean(axis=1, keepdims=True), self.channels, axis=1)
        return block.astype(np.float32, copy=False)


def _broken(file: IO[bytes]) -> bool:
    """Return whether the outermost boxes of MP4, Matroska, CAF, AVI or Ogg reach past the end of the file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(64)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska_end(file) > size
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _mp4_end(file, size) > size
    if head[:4] == b"caff":
        return _caf_end(file, size) > size
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return int.from_bytes(head[4:8], "little") + 8 > size + 1
    if head[:4] == b"OggS":
        ogg = Ogg.scan(file)
        return ogg is not None and ogg.broken
    return False


def _mp4_end(file: IO[bytes], size: int) -> int:
    """Return the declared end of the last top-level box, in bytes."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: up to the end; 1 to 7: no valid box, left to FFmpeg
            return at
        at += length
    return at


def _caf_end(file: IO[bytes], size: int) -> int:
    """Return the declared end of the last chunk, in bytes."""
    at = 8
    while at < size:
        file.seek(at)
        length = int.from_bytes(file.read(12)[4:], "big", signed=True)
        if length < 0:  # -1: up to the end
            return at
        at += 12 + length
    return at


def _matroska_end(file: IO[bytes]) -> int:
    """Return the declared end of the segment; 0 if unknown, as when written live.  RFC 8794, sections 4 to 6."""
    at = 0
    for _ in range(4):  # the head, perhaps a void, the segment
        file.seek(at)
        head = file.read(12)
        if len(head) < 2 or not head[0]:
            return 0
        name = 9 - head[0].bit_length()  # bytes
        first = head[name] if name < len(head) else 0
        if not first:
            return 0
        wide = 9 - first.bit_length()
        length = int.from_bytes(head[name : name + wide], "big") & ((1 << 7 * wide) - 1)
        if length == (1 << 7 * wide) - 1:
            return 0
        at += name + wide + length
        if head[:4] == b"\x18\x53\x80\x67":
            return at
    return 0


def _xing_frames(file: IO[bytes]) -> int | None:
    """Return the number of frames of an MP3 from its encoder's header (Xing, Info), if it has one."""
    file.seek(0)
    head = file.read(10)
    at = 0
    if head[:3] == b"ID3" and len(head) == 10:
        at = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:]))
    file.seek(at)
    frame = file.read(512)
    if frame[:1] != b"\xff":
        return None
    for name in (b"Xing", b"Info"):
        place = frame.find(name)
        if 0 < place < 64 and len(frame) >= place + 12 and frame[place + 7] & 1:
            return int.from_bytes(frame[place + 8 : place + 12], "big") or None
    return None
