"""The microphone of this machine, as blocks of samples; by PortAudio through `sounddevice`.

    with Microphone() as microphone:
        for samples in microphone:                      # float32 (s,), at microphone.rate
            ...

What is heard waits in a queue while the reader is busy; a reader that falls `PATIENCE` seconds behind is told so.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import numpy as np

from samba_asr.errors import UserError, missing_extra

BLOCK = 0.1  # seconds
PATIENCE = 30.0  # seconds of audio that may wait


def sounddevice():
    """The package of that name; UserError if it or PortAudio is missing."""
    try:
        import sounddevice
    except ImportError as error:
        raise missing_extra("sounddevice", "mic") from error
    except OSError as error:  # its wheel for Linux comes without the library
        raise UserError(f"{error}: install it from your system's packages (Debian: libportaudio2)") from None
    return sounddevice


def devices() -> str:
    """A table of what there is, to choose from."""
    return str(sounddevice().query_devices()) or "no audio device"


class Microphone:
    """Opened by `with`.  Iteration ends after `stop`, with all that was heard before.

    rate: samples a second, the device's own; no resampling on the way.
    """

    def __init__(self, device: int | str | None = None):
        """device: number or part of the name, as `devices` lists them; None: the system's.  UserError if it cannot be heard."""
        self._sd = sounddevice()
        try:
            info = self._sd.query_devices(device, "input")
            self.name, self.rate = info["name"], round(info["default_samplerate"])
            size = round(BLOCK * self.rate)
            self._stream = self._sd.InputStream(
                samplerate=self.rate, blocksize=size, device=device, channels=1, dtype="float32", callback=self._hear
            )
        except (self._sd.PortAudioError, ValueError) as error:
            which = "the system's microphone" if device is None else f"device {device!r}"
            raise UserError(f"{which} cannot be opened ({error}): samba-asr mic --list shows what there is") from None
        self._blocks: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()  # a signal handler may put into it
        self._waiting = 0  # samples
        self._lock = threading.Lock()
        self.overflowed = False  # the system lost audio

    def __enter__(self) -> Microphone:
        self._stream.start()
        return self

    def __exit__(self, *_) -> None:
        self._stream.close()

    def stop(self) -> None:
        """Hear no more.  May be called from a signal handler."""
        self._blocks.put(None)

    def __iter__(self) -> Iterator[np.ndarray]:
        while (block := self._blocks.get()) is not None:
            with self._lock:
                self._waiting -= len(block)
                late = self._waiting / self.rate
            if late > PATIENCE:
                raise UserError(
                    f"{late:.0f} s of audio wait: this machine is too slow for the model; try a higher --latency-ms"
                )
            yield block

    def _hear(self, data: np.ndarray, frames: int, time, status) -> None:
        """In PortAudio's thread; `data` (s, 1) is its own."""
        self.overflowed |= bool(status.input_overflow)
        with self._lock:
            self._waiting += frames
        self._blocks.put(data[:, 0].copy())
