"""Sessions with other settings, the segments of their events, and a listener of the engine."""

from __future__ import annotations

import queue

from samba_asr.config import load
from samba_asr.decoding.transcript import Segment
from samba_asr.engine import Failed, Final, News
from samba_asr.models.folder import LoadedModel
from samba_asr.recognizer import Recognizer


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


WAIT = 60  # seconds, of a test that hangs


class Ear:
    """A listener that keeps what it is told."""

    def __init__(self):
        self.events: list[News] = []
        self._queue: queue.Queue[News] = queue.Queue()

    def __call__(self, event: News) -> None:
        self._queue.put(event)

    def until(self, kind: type):
        while True:
            event = self.next()
            self.events.append(event)
            if isinstance(event, kind):
                return event
            assert not isinstance(event, Failed), event

    def next(self) -> News:
        return self._queue.get(timeout=WAIT)

    @property
    def text(self) -> str:
        return " ".join(e.segment.text for e in self.events if isinstance(e, Final))
