"""Sessions with other settings, and the segments of their events."""

from __future__ import annotations

from samba_asr.config import load
from samba_asr.decoding.transcript import Segment
from samba_asr.models.folder import LoadedModel
from samba_asr.recognizer import Recognizer
from samba_asr.session import Final


def changed(recognizer: Recognizer, **decode) -> Recognizer:
    """Another recognizer on the same loaded model, with other search settings."""
    loaded = LoadedModel(recognizer.model, recognizer.tokenizer, recognizer.config)
    settings = [f"decode.{key.replace('__', '.')}={value}" for key, value in decode.items()]
    return Recognizer(loaded, load([], settings).decode)


def alone(recognizer: Recognizer, samples, rate=16000, latency_ms=None) -> list[Segment]:
    stream = recognizer.stream(rate, latency_ms=latency_ms)
    stream.accept(samples)
    return list(stream.finish().segments)


def finals(events) -> list[Segment]:
    return [event.segment for event in events if isinstance(event, Final)]
