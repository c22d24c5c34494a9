"""Page headers of an Ogg file (RFC 3533).

Page header: "OggS", version, flags, granule position (8 bytes), serial (4), sequence (4), checksum (4), number of
segments, their lengths (one byte each).  The segments follow.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import IO, Any

_HEADER = 27  # bytes before the lengths of the segments
_BEGIN = 2  # flag of a stream's first page
_HOLE = 4800  # samples of 48 kHz that may be missing without counting as a hole


@dataclass(frozen=True)
class Ogg:
    """Structure of an Ogg file.  broken: the last page is cut.  links: streams in sequence.  holes: sound is missing."""

    broken: bool
    links: int
    holes: bool

    @property
    def for_ffmpeg(self) -> bool:
        """Whether libsndfile would lose samples or their times."""
        return self.links > 1 or self.holes

    @classmethod
    def scan(cls, file: Any) -> Ogg | None:
        """Scan a path, or a binary file, which is rewound; None if it is not Ogg."""
        with contextlib.ExitStack() as stack:
            if isinstance(file, str):
                file = stack.enter_context(open(file, "rb"))
            file.seek(0)
            try:
                return _scan(file) if file.read(4) == b"OggS" else None
            finally:
                file.seek(0)


def _scan(file: IO[bytes]) -> Ogg:
    size = file.seek(0, os.SEEK_END)
    at, links, data_seen, holes, vorbis = 0, 0, True, False, False
    next_page: dict[int, int] = {}  # serial -> sequence number that should follow
    opus: dict[int, int] = {}  # serial of an Opus stream -> the granule position of its last page, -1 before the first
    while at < size:
        file.seek(at)
        head = file.read(_HEADER + 255)
        if len(head) < _HEADER or head[:4] != b"OggS":
            return Ogg(True, links, holes or vorbis)
        lengths = head[_HEADER : _HEADER + head[26]]
        body = at + _HEADER + head[26]
        end = body + sum(lengths)
        granule, serial, sequence = (int.from_bytes(head[a:b], "little") for a, b in ((6, 14), (14, 18), (18, 22)))
        if end > size or len(lengths) < head[26]:
            return Ogg(True, links, holes or vorbis)  # libsndfile reads no sample of a cut Vorbis file
        if head[5] & _BEGIN:
            magic = _bytes(file, body, 8)
            vorbis |= magic[:7] == b"\x01vorbis"
            if magic == b"OpusHead":
                opus[serial] = -1
            links += data_seen  # streams that begin together are one link
            data_seen = False
        else:
            data_seen = True
            holes |= vorbis and sequence > next_page.get(serial, sequence)
            if serial in opus and 0 < granule < 1 << 63:
                before, opus[serial] = opus[serial], granule
                holes |= before > 0 and granule - before - _opus_samples(file, body, lengths) > _HOLE
        next_page[serial] = sequence + 1
        at = end
    return Ogg(False, links, holes)


def _opus_samples(file: IO[bytes], at: int, lengths: bytes) -> int:
    """Return the number of 48 kHz samples in the packets that end on a page, from their first bytes (RFC 6716, 3.1)."""
    samples, begin = 0, at
    for length in lengths:
        at += length
        if length == 255:  # the packet goes on
            continue
        first, second = (*_bytes(file, begin, 2), 0, 0)[:2]
        kind, begin = first >> 3, at
        frame = (
            (480, 960, 1920, 2880)[kind & 3] if kind < 12 else (480, 960)[kind & 1] if kind < 16 else 120 << (kind & 3)
        )
        samples += frame * (1, 2, 2, second & 63)[first & 3]
    return samples


def _bytes(file: IO[bytes], at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
