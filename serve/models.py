"""The models of a service, by name: each has an engine, and can be reloaded while sessions continue.

A session begins with the newest weights of its model and keeps them to its end.  The engine of a replaced model takes no new
sessions, and ends with its last one.  The limit of sessions is shared by all models.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from samba_asr import collector
from samba_asr.engine import Engine, EngineCounts, Full, Listener, LiveSession, TurnRules
from samba_asr.errors import UserError
from samba_asr.recognizer import Phrases, Recognizer
from samba_asr.serve.metrics import Metrics, StepCounts
from samba_asr.serve.settings import NOT_LIVE, Settings

logger = logging.getLogger(__name__)


def load(settings: Settings) -> dict[str, Recognizer]:
    """Load every model of the settings; UserError, with its name, for one that cannot be read or lacks the latency."""
    return {name: _load(name, folder, settings) for name, folder in settings.models.items()}


def _load(name: str, folder: Path | None, settings: Settings) -> Recognizer:
    try:
        # A user of one's own may override this; of many sessions the finals would wait for each other.
        found = Recognizer.load(folder, device=settings.device, settings=(NOT_LIVE, *settings.decode))
        found.latency(settings.latency_ms)  # reports a wrong latency now
        found.warm()  # a first compilation takes seconds, in which nobody should wait for a text
    except UserError as error:
        raise UserError(f"model {name}: {error}") from None
    return found


class Models:
    """Engines of a service's models, with their metrics."""

    def __init__(self, settings: Settings, recognizers: Mapping[str, Recognizer]):
        """recognizers: by name; the first is the default."""
        if not recognizers:
            raise UserError("a service needs a model: give --model")
        self.settings = settings
        self._engines: dict[str, Engine] = {}
        self.metrics = Metrics(self)
        for name, one in recognizers.items():
            self._engines[name] = self._start(one, StepCounts(self.metrics.step.labels(name)))
        self._retired: list[tuple[str, Engine]] = []
        self._reloading, self._lock = threading.Lock(), threading.Lock()
        self._closed, self._asked = False, 0  # reloads: one runs, and another is to follow
        self.refused = 0
        collector.settle()

    def _start(self, recognizer: Recognizer, counts: EngineCounts) -> Engine:
        bounds = {"max_sessions": self.settings.max_sessions, "idle_seconds": self.settings.idle_seconds}
        return Engine(recognizer, **bounds, counts=counts)

    @property
    def names(self) -> list[str]:
        return list(self._engines)

    def engine(self, name: str = "") -> Engine:
        """Return the engine of a model ("": the first); UserError if there is no model of this name."""
        if name and name not in self._engines:
            raise UserError(f"model {name[:100]}: this service has {', '.join(self._engines)}")
        return self._engines[name or self.names[0]]

    def engines(self, name: str | None = None) -> list[Engine]:
        """Return all running engines, including those of replaced weights; of all models, or of one."""
        with self._lock:
            self._retired = [(of, engine) for of, engine in self._retired if engine.sessions]
            every = [*self._engines.items(), *self._retired]
        return [engine for of, engine in every if name in (None, of)]

    def open(
        self,
        listener: Listener,
        rate: int,
        *,
        name: str = "",
        latency_ms: float | None = None,
        hotwords: Phrases = None,
        text: str = "spoken",
        digits: bool = True,
        turns: TurnRules | None = None,
    ) -> LiveSession:
        """Open a session; see `Engine.open`."""
        self.engine(name)  # a wrong name is reported even if the service is full
        if sum(len(some.sessions) for some in self.engines()) >= self.settings.max_sessions:
            self.refused += 1
            raise Full(f"all {self.settings.max_sessions} sessions are taken: try again later")
        while True:
            engine = self.engine(name)
            try:
                return engine.open(
                    listener, rate, latency_ms=latency_ms, hotwords=hotwords, text=text, digits=digits, turns=turns
                )
            except Full:
                if engine is self.engine(name):
                    raise  # otherwise its model was reloaded just now

    def ask_reload(self) -> None:
        """Reload every model in a separate thread.  Any number of requests during a reload cause one more."""
        with self._lock:
            self._asked = min(self._asked + 1, 2)
            if self._asked == 2:
                return
        threading.Thread(target=self._reload_as_asked, name="samba_asr-reload", daemon=True).start()

    def _reload_as_asked(self) -> None:
        while True:
            self.reload()
            with self._lock:
                self._asked -= 1
                if not self._asked or self._closed:
                    return

    def reload(self) -> None:
        """Reload every model.  One that cannot be read stays as it is, and the log has the reason."""
        with self._reloading:
            for name, folder in self.settings.models.items():
                try:
                    recognizer = _load(name, folder, self.settings)
                except Exception as error:
                    reason = str(error) if isinstance(error, UserError) else repr(error)
                    logger.error(
                        "model not reloaded: the old one stays", extra={"fields": {"model": name, "reason": reason}}
                    )
                    continue
                with self._lock:
                    if self._closed:
                        return
                    old = self._engines[name]
                    self._engines[name] = self._start(recognizer, old.counts)
                    self._retired.append((name, old))
                    old.retire()
                logger.info("model reloaded", extra={"fields": {"model": name}})
            collector.settle()

    def close(self) -> None:
        """Take no new sessions, and finish the active ones, which receive their last results."""
        with self._lock:
            self._closed = True
        threads = [
            threading.Thread(target=engine.close, args=(self.settings.grace_seconds,)) for engine in self.engines()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
