"""Metrics for operators at `/metrics`, in Prometheus' text format: counts of the engines, and waiting times of clients.

A final has two latencies.  One is from the client's command (flush, commit, stop) to the text: the waiting time of a
push-to-talk client.  The other is from the arrival of the segment's last sound to the text; it includes the pause that ends the
segment.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from samba_asr.engine import Done, Engine, EngineCounts, Final, Flushed, LiveSession, News, Partial, Quiet

if TYPE_CHECKING:
    from samba_asr.serve.models import Models

BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)  # seconds

ENGINE: list[tuple[type[GaugeMetricFamily | CounterMetricFamily], str, str, Callable[[list[Engine]], float]]] = [
    (GaugeMetricFamily, "sessions_active", "live sessions", lambda es: sum(len(e.sessions) for e in es)),
    (CounterMetricFamily, "sessions", "sessions opened", lambda es: es[0].counts.opened),
    (CounterMetricFamily, "sessions_failed", "sessions ended by an internal error", lambda es: es[0].counts.failed),
    (CounterMetricFamily, "audio_seconds", "audio through the model", lambda es: round(es[0].counts.audio, 3)),
    (CounterMetricFamily, "steps", "steps of the model", lambda es: es[0].counts.ticks),
    (CounterMetricFamily, "step_rows", "sessions in those steps", lambda es: es[0].counts.rows),
    (CounterMetricFamily, "step_seconds", "time of those steps", lambda es: round(es[0].counts.busy, 3)),
    (
        CounterMetricFamily,
        "finals",
        "steps in which a segment or the session ended, or a flush came",
        lambda es: es[0].counts.finals,
    ),
    (CounterMetricFamily, "final_seconds", "time to conclude them", lambda es: round(es[0].counts.final_seconds, 3)),
    (
        GaugeMetricFamily,
        "lag_seconds",
        "longest queue of a session, in seconds of audio",
        lambda es: max((s.backlog for e in es for s in e.sessions[:]), default=0),
    ),
]
"""Kind, name, help, and value of a model's engines; engines of replaced weights share the counts of the first."""


class Metrics:
    """Metrics of one service."""

    def __init__(self, models: Models):
        self._models, self._registry = models, CollectorRegistry()
        self._registry.register(self)

        def seconds(name: str, help: str) -> Histogram:
            name = f"samba_asr_{name}_seconds"
            return Histogram(name, help, ["model"], buckets=BUCKETS, registry=self._registry)

        self.step = seconds("step_duration", "time of one step of the model")
        self.lag = seconds("audio_lag", "queued audio of a session, observed at each of its results")
        self.first_partial = seconds("first_partial", "from a session's first audio to its first partial")
        self.final_after_order = seconds("final_after_order", "from flush, commit or stop to the final")
        self.final_after_speech = seconds("final_after_speech", "from the arrival of a final's last sound to the final")

    def watch_uploads(self, taken: Callable[[], int]) -> None:
        """Export the number of taken upload places.  taken: returns it."""
        name, help = "samba_asr_uploads_active", "upload places in use"
        Gauge(name, help, registry=self._registry).set_function(taken)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the engines; called by the registry."""
        models = self._models
        if not models.names:  # while it is being set up
            return
        refused = models.refused + sum(models.engine(name).counts.refused for name in models.names)
        yield CounterMetricFamily(
            "samba_asr_sessions_rejected", "sessions refused because the service was full", refused
        )
        for kind, name, help, value in ENGINE:
            family = kind(f"samba_asr_{name}", help, labels=["model"])
            for model in models.names:
                family.add_metric([model], value(models.engines(model)))
            yield family

    def text(self) -> bytes:
        """Render all metrics."""
        return generate_latest(self._registry)


class StepCounts(EngineCounts):
    """EngineCounts of an engine, with a histogram of step times."""

    def __init__(self, histogram: Histogram):
        super().__init__()
        self._histogram = histogram

    def stepped(self, seconds: float, rows: int) -> None:
        super().stepped(seconds, rows)
        self._histogram.observe(seconds)


class Timing:
    """Waiting times of one session's client.

    `received` and `ordered` are called in the event loop, `event` in the engine's thread.
    """

    def __init__(self, metrics: Metrics, model: str):
        self._metrics, self._model = metrics, model
        self._begun: float | None = None  # time of the first audio
        self._shown = False  # whether a partial was sent
        self._arrivals: deque[tuple[float, float]] = deque()  # seconds of audio, and the times of their arrival
        self._orders: deque[float] = deque()  # times of commands without an answer
        self._final = 0.0  # time of the last final

    def received(self, seconds: float) -> None:
        """Note that so many seconds of audio have arrived in all."""
        now = time.monotonic()
        self._begun = self._begun or now
        self._arrivals.append((seconds, now))

    def ordered(self) -> None:
        """Note a command that asks for the text of the audio so far."""
        self._orders.append(time.monotonic())

    def event(self, event: News, live: LiveSession | None) -> None:
        """Note an event of the session, and observe its latencies."""
        now = time.monotonic()
        match event:
            case Partial():
                if self._begun and not self._shown:
                    self._observe(self._metrics.first_partial, now - self._begun)
                self._shown = True
            case Final(segment):
                self._final = now
                if (arrived := self._arrival(segment.end)) is not None:
                    self._observe(self._metrics.final_after_speech, now - arrived)
            case Quiet(until):
                self._arrival(until)
            case Flushed() | Done():
                if self._orders and self._final >= (asked := self._orders.popleft()):
                    self._observe(self._metrics.final_after_order, self._final - asked)
        if live is not None and isinstance(event, Partial | Final | Quiet):
            self._observe(self._metrics.lag, live.backlog)

    def _arrival(self, seconds: float) -> float | None:
        """Return the time when the audio up to `seconds` had arrived, and drop earlier times."""
        while self._arrivals and self._arrivals[0][0] < seconds:
            self._arrivals.popleft()
        return self._arrivals[0][1] if self._arrivals else None

    def _observe(self, histogram: Histogram, seconds: float) -> None:
        histogram.labels(self._model).observe(seconds)
