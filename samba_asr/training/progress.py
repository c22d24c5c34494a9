"""Progress output of a training run (terminal, `log.txt`, tracker), and its handling of SIGINT and SIGTERM."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from samba_asr.training.step import StepResult
from samba_asr.training.tracking import Tracking

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def log_file(path: Path, level: int = logging.INFO) -> Iterator[None]:
    """Append the log of samba_asr from `level` up to `path`, which is created with its first line."""
    package = logging.getLogger("samba_asr")
    before = package.level
    handler = _LogFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package.addHandler(handler)
    package.setLevel(level)
    try:
        yield
    finally:
        package.setLevel(before)
        package.removeHandler(handler)
        handler.close()


class _LogFile(logging.FileHandler):
    """A log that ends nothing and says nothing where the disk is full: the terminal shows the same lines."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class Signals:
    """Handler that records SIGINT and SIGTERM instead of exiting, so that the loop can save.  A second signal exits.

    received: number of the signal, 0 before.  Outside the main thread Python allows no handlers, so none is recorded.
    """

    def __init__(self) -> None:
        self.received = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old.clear()

    def _note(self, number: int, _frame: object) -> None:
        self.received = number
        self.__exit__()


class TrainingProgress:
    """Step lines: on a terminal one line, rewritten in place; elsewhere logged every `every` steps, as in `log.txt`.

    Losses are means per unit (a token, a frame).  The rate, since the last logged line, is hours of audio per hour, or units
    per second for text.
    """

    def __init__(self, every: int, tracking: Tracking | None = None):
        self.every = max(every, 1)
        self.live = sys.stderr.isatty()
        self._tracking = tracking
        self._clear = _ClearLine()
        if self.live:
            logging.getLogger("samba_asr").addHandler(self._clear)
        self._first: tuple[float, float] | None = None  # time and share of the run at the first step
        self.restart()

    def restart(self) -> None:
        """Restart the counters, after a time without training."""
        self._since, self._shown = time.monotonic(), 0.0
        self._seconds = self._units = 0.0
        self._sums: dict[str, float] = {}

    def step(self, step: int, where: str, lr: float, done: float, outcome: StepResult) -> None:
        """Report a step.  where: the epoch.  done: share of the run, 0 to 1."""
        now = time.monotonic()
        self._first = self._first or (now, done)
        self._seconds += outcome.seconds
        self._units += outcome.units
        for name, value in outcome.losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        due = step % self.every == 0
        if not due and not (self.live and now - self._shown > 0.2):
            return
        self._shown = now
        means = {k: v / self._units for k, v in self._sums.items() if self._units and (v or k == "loss")}
        losses = " ".join(f"{name} {value:.4f}" for name, value in means.items())
        hours = self._seconds / max(now - self._since, 1e-9)
        rate = f"audio {outcome.seconds:.0f} s, {hours:.0f} h/h"
        if not self._seconds:  # text: a language model
            rate = f"{self._units / max(now - self._since, 1e-9):.0f} units/s"
        line = f"{where} step {step} {losses} lr {lr:.2e} norm {outcome.norm:.2f} {rate}, left {self._left(now, done)}"
        if self.live:
            sys.stderr.write(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}")
            sys.stderr.flush()
        if due:
            self._log(line)
            shown = {**means, "lr": lr, "norm": outcome.norm, "hours_per_hour": hours}
            self.track({f"train/{name}": value for name, value in shown.items()}, step)
            self.restart()

    def track(self, values: Mapping[str, float], step: int) -> None:
        """Give values by name to the tracker, if there is one."""
        if self._tracking:
            self._tracking.log(values, step)

    def close(self) -> None:
        if self.live:
            self._clear.emit(None)
            logging.getLogger("samba_asr").removeHandler(self._clear)
        if self._tracking:
            self._tracking.close()

    def _left(self, now: float, done: float) -> str:
        began, first = self._first or (now, done)
        if done <= first:
            return "?"
        seconds = int((now - began) * (1 - done) / (done - first))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _log(self, line: str) -> None:
        if not self.live:
            logger.info(line)
            return
        record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, line, (), None)
        for handler in logging.getLogger("samba_asr").handlers:
            if isinstance(handler, logging.FileHandler):  # the terminal shows it already
                handler.handle(record)


class _ClearLine(logging.Handler):
    """Handler that clears the live line before other log lines.  The package's handlers run before the root's."""

    def emit(self, record: logging.LogRecord | None) -> None:
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()
