"""The service in a test: what it hears, what it tells, and what `transcribe` would read."""

from __future__ import annotations

import numpy as np

from samba_asr import config as configs
from samba_asr.serve import protocol

LATENCY = 320.0


def save_config(path, *overrides) -> None:
    configs.save(configs.load(overrides=["decode.search.method=beam", *overrides], folder=path.parent), path)


def pcm(samples: np.ndarray) -> bytes:
    return (samples * 32768).clip(-32768, 32767).astype("<i2").tobytes()


def heard(data: bytes) -> np.ndarray:
    """Convert bytes to samples as the service does."""
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768


def expected(recognizer, samples, rate=16000):
    stream = recognizer.stream(rate, latency_ms=LATENCY)
    stream.accept(samples)
    return stream.finish()


def until(socket, kind: str) -> list[dict]:
    """Messages up to the first of this type."""
    found = []
    while not found or found[-1]["type"] != kind:
        found.append(socket.receive_json())
        protocol.DOWN.validate_python(found[-1])  # the types of the reference
    return found


def text_of(messages) -> str:
    return " ".join(m["text"] for m in messages if m["type"] == "final")
