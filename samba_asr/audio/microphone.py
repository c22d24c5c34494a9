"""The microphone of this machine as blocks of samples, by PortAudio through `sounddevice`.

    with Microphone() as microphone:
        for samples in microphone:                      # float32 (s,), at microphone.rate
            ...

Recorded audio waits in a queue while the reader is busy.  UserError if more than `PATIENCE` seconds wait.
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
    """Import the package of that name; UserError if it or PortAudio is missing."""
    try:
        import sounddevice
    except ImportError as error:
        raise missing_extra("sounddevice", "mic") from error
    except OSError as error:  # the wheel for Linux lacks PortAudio
        raise UserError(f"{error}: install it from your system's packages (Debian: libportaudio2)") from None
    return sounddevice


def devices() -> str:
    """Return a table of the audio devices."""
    return str(sounddevice().query_devices()) or "no audio device"


class Microphone:
    """A microphone, opened by `with`.  Iteration ends after `stop`, with all audio recorded before it.

    rate: samples per second, the device's own.  Nothing is resampled.
    """

    def __init__(self, device: int | str | None = None):
        """device: number or part of the name, as listed by `devices`; None: the system's.  UserError if it cannot be opened."""
        self._sd = sounddevice()
        try:
            info = self._sd.query_devices(device, "input")
            self.name, self.rate = info["name"], round(info["default_samplerate"])
            size = round(BLOCK * self.rate)
            self._stream = self._sd.InputStream(
                samplerate=self.rate, blocksize=size, device=device, channels=1, dtype="float32", callback=self._receive
            )
        except (self._sd.PortAudioError, ValueError) as error:
            which = "the system's microphone" if device is None else f"device {device!r}"
            raise UserError(f"{which} cannot be opened ({error}): list devices with samba-asr mic --list") from None
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
        """Stop recording.  May be called from a signal handler."""
        self._blocks.put(None)

    def __iter__(self) -> Iterator[np.ndarray]:
        while (block := self._blocks.get()) is not None:
            with self._lock:
                self._waiting -= len(block)
                late = self._waiting / self.rate
            if late > PATIENCE:
                raise UserError(
                    f"{late:.0f} s of audio wait: this machine is too slow for the model: try a higher --latency-ms"
                )
            yield block

    def _receive(self, data: np.ndarray, frames: int, time, status) -> None:
        """Receive a block in PortAudio's thread.  `data` (s, 1) belongs to PortAudio, so it is copied."""
        self.overflowed |= bool(status.input_overflow)
        with self._lock:
            self._waiting += frames
        self._blocks.put(data[:, 0].copy())
