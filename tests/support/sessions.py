"""Sessions with other settings, the segments of their events, and a listener of the engine."""

from __future__ import annotations

import queue
from collections.abc import Iterator

from hypothesis import strategies as st

from samba_asr.config import load
from samba_asr.decoding.transcript import Segment
from samba_asr.engine import Failed, Final, News
from samba_asr.models.folder import LoadedModel
from samba_asr.recognizer import Recognizer
from samba_asr.session import Session
from tests.support.sound import noise


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


PARTS = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.floats(0.0, 3.0, allow_subnormal=False)),
        st.tuples(st.just("gap"), st.sampled_from([0.2, 0.6, 3.0, 12.0])),
        st.tuples(st.just("flush"), st.just(0.0)),
    ),
    max_size=8,
)
"""What happens to a session, and seconds: audio, missing audio, a flush."""


def fed(
    recognizer: Recognizer, parts, latency_ms: float | None = 320, partials=False, on_chunk=lambda: None
) -> Iterator[Session]:
    """Open a session, and yield it after each part and after its end."""
    session = recognizer.session(16000, latency_ms=latency_ms, partials=partials)
    for n, (what, seconds) in enumerate(parts):
        if what == "feed":
            session.feed(noise(seconds, seed=n))
        elif what == "gap":
            session.gap(seconds)
        else:
            session.flush(str(n))
        on_chunk()
        yield session
    session.end()
    yield session
