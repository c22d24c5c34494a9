"""Display on stderr while a command works: partial results, and the progress of long files."""

from __future__ import annotations

import shutil
import sys
import time

PATIENCE = 2.0  # seconds of work before progress is shown
RENEW = 0.2  # seconds between two shown states


class PartialLine:
    """Partial results on stderr: one line that is rewritten on a terminal, one line for each elsewhere."""

    def __init__(self):
        self.terminal, self.shown = sys.stderr.isatty(), False

    def __call__(self, text: str) -> None:
        self.shown = True
        if self.terminal:
            overwrite(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.shown and self.terminal:
            overwrite("")


class Progress:
    """Progress of a file on a terminal, after some seconds of work: time done, its duration, speed, time left."""

    def __init__(self, name: str, duration: float | None, on: bool = True):
        """duration: seconds, None if unknown.  on: whether to show anything."""
        self.name, self.duration, self.on = name, duration, on and sys.stderr.isatty()
        self.began = time.monotonic()
        self._last, self._shown = self.began + PATIENCE - RENEW, False

    def __call__(self, seconds: float) -> None:
        """Show that so many seconds of audio are done."""
        now = time.monotonic()
        if self.on and now - self._last >= RENEW:
            self._last, self._shown = now, True
            overwrite(self.line(seconds, now - self.began))

    def line(self, seconds: float, spent: float) -> str:
        """Return the line for `seconds` of audio done in `spent` seconds of work."""
        speed = seconds / max(spent, 1e-3)
        if self.duration is None:
            return f"{self.name}: {minutes(seconds)}, {speed:.0f} times real time"
        left = max(0.0, self.duration - seconds) / max(speed, 1e-3)
        return (
            f"{self.name}: {minutes(seconds)} of {minutes(self.duration)}, {speed:.0f} times real time, "
            f"{minutes(left)} left"
        )

    def clear(self) -> None:
        """Remove the line, so that something else can be printed."""
        if self._shown:
            overwrite("")
            self._shown = False


def overwrite(text: str) -> None:
    """Replace the last line of the terminal by the end of `text`."""
    width = shutil.get_terminal_size().columns - 1
    print(f"\r\x1b[K{text[-width:]}", end="", file=sys.stderr, flush=True)


def minutes(seconds: float) -> str:
    """Return 1:02:03 or 2:03."""
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
    )
