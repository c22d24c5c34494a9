"""Sounds and files of them, made on the spot."""

from __future__ import annotations

import fractions
import io
import tempfile

import av
import numpy as np
import soundfile

RATE = 16000


def tone(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """(s, c) float32: sines of 300, 400, ... Hz at half of full scale."""
    time = np.arange(round(seconds * rate))[:, None] / rate  # (s, 1)
    return (0.5 * np.sin(2 * np.pi * (300 + 100 * np.arange(channels)) * time)).astype(np.float32)


def encode(samples: np.ndarray, format: str = "WAV", subtype: str | None = None, rate: int = RATE) -> bytes:
    """A file by libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def encode_av(
    samples: np.ndarray,
    format: str,
    codec: str,
    rate: int,
    *,
    at: float = 0.0,
    hole: tuple[float, float] | None = None,
    picture: float = 0.0,
    options: dict[str, str] | None = None,
) -> bytes:
    """A mono file by FFmpeg.

    at: seconds at which the sound begins.  hole: seconds of sound before a hole, and how long that is.
    picture: seconds of video from 0 on.
    """
    if format in ("mp4", "mov") and not options:
        options = {"movflags": "faststart"}  # the index first, as files for the web have it
    folder = tempfile.TemporaryDirectory()
    file = f"{folder.name}/sound"
    samples, step = np.ascontiguousarray(samples.T), rate // 10  # (1, s)
    with av.open(file, "w", format=format, options=options or {}) as container:
        video = container.add_stream("mpeg4", rate=25, width=32, height=32, pix_fmt="yuv420p") if picture else None
        sound = container.add_stream(codec, rate=rate, layout="mono")
        packets = []
        for i in range(round(picture * 25)):
            frame = av.VideoFrame(32, 32, "yuv420p")
            frame.pts, frame.time_base = i, fractions.Fraction(1, 25)
            packets += video.encode(frame)
        if video:
            packets += video.encode(None)
        for i in range(0, samples.shape[1], step):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, i : i + step]), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, i, fractions.Fraction(1, rate)
            for converted in av.AudioResampler(sound.format.name, "mono", rate).resample(frame):
                packets += sound.encode(converted)
        packets += sound.encode(None)
        for packet in packets:
            if packet.stream is sound and packet.pts is not None:
                seconds = float(packet.pts * packet.time_base)
                late = at + (hole[1] if hole and seconds >= hole[0] else 0.0)
                ticks = round(late / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in packets:
            container.mux(packet)
    with folder, open(file, "rb") as made:
        return made.read()


def begins(samples: np.ndarray, rate: int, level: float = 0.1) -> float:
    """Seconds before the first sample above `level`."""
    return float(np.argmax(np.abs(samples) > level)) / rate
