"""Client of the service: audio in, words out, with automatic reconnection.

    with Client("ws://localhost:8000", rate=16000, on_message=print) as client:
        for samples in microphone:                     # float32 (s,)
            client.send(samples)
        print(client.finish())                         # the final text

Audio is kept until a `final` message covers it, or `quiet` reports that it has no words.  If the connection breaks, the client
opens a new one and sends the kept audio, so every word comes once and times continue.  If the service is full, `Busy` is raised.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from samba_asr.decoding.turns import TurnRules
from samba_asr.errors import UserError, missing_extra

STEADY = 60.0  # seconds after which a connection counts as good, and breaks are counted from 0
MESSAGE = 1 << 18  # bytes of audio in a message: far below the limit of the service


def websockets():
    """Import the package `websockets`."""
    try:
        import websockets.asyncio.client
        import websockets.exceptions
        import websockets.sync.client
    except ImportError as error:
        raise missing_extra("websockets", "serve") from error
    return websockets


class Busy(UserError):
    """Error: the service is full; try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after


class Client:
    """A session with a service; use it as a context manager."""

    def __init__(
        self,
        url: str,
        *,
        rate: int = 16000,
        model: str = "",
        latency_ms: float | None = None,
        hotwords: Mapping[str, float] | None = None,
        text: str = "spoken",
        digits: bool = True,
        turns: TurnRules | None = None,
        token: str | None = None,
        on_message: Callable[[dict[str, Any]], None] = lambda message: None,
        retries: int = 5,
    ):
        """url: ws:// or wss:// and the service's address.  rate: samples a second.  model: name; default the service's first.

        latency_ms: default the service's.  hotwords: phrases and their weights, nats a unit.  token: bearer token.
        text: "written" or "spoken".  digits: whether the written form has numbers in digits.
        turns: rules of turns in seconds; the service then also sends messages of turns.  After a broken connection a turn that
            was open begins again.
        on_message: called with every message of the service; times and segments are those of the whole session.
        retries: connections that may break in a row without a final between them; then UserError.
        """
        library = websockets()
        self._connect, self._errors = library.sync.client.connect, library.exceptions
        if not url.startswith(("ws://", "wss://")):
            raise UserError(f"{url}: give the service's address with ws:// or wss://")
        self.url, self.rate, self.token, self.on_message, self.retries = url, rate, token, on_message, retries
        self._start = {"type": "start", "sample_rate": rate, "encoding": "pcm_f32le"}
        self._start |= {"model": model} if model else {}
        self._start |= {"latency_ms": latency_ms} if latency_ms else {}
        self._start |= {"hotwords": dict(hotwords)} if hotwords else {}
        self._start |= {"text": text, "itn": digits} if text != "spoken" else {}
        if turns is not None:
            seconds = {"eager_ms": turns.eager, "end_ms": turns.end}
            given = {name: 1000 * s for name, s in seconds.items() if s is not None and s != math.inf}
            self._start |= {"turns": True, **given}
        self.finals: list[dict[str, Any]] = []
        self._kept = np.zeros(0, np.float32)  # audio that no final covers yet
        self._base = 0.0  # seconds of the session before `_kept`
        self._begun = 0.0  # seconds of the session before this connection
        self._breaks = 0  # connections broken in a row
        self._connection = contextlib.ExitStack()
        self._socket: Any = None  # a connection of websockets, while there is one
        self._open()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(self._errors.WebSocketException, OSError):
            self._connection.close()

    @property
    def text(self) -> str:
        """Text of all finals so far."""
        return " ".join(final["text"] for final in self.finals)

    def send(self, samples: np.ndarray) -> None:
        """Send audio (s,), float32 in [-1, 1], and pass on messages that have arrived."""
        samples = np.asarray(samples, np.float32)
        self._kept = np.concatenate([self._kept, samples])
        try:
            self._send(samples)
        except (self._errors.ConnectionClosed, OSError):
            self._recover()

    def gap(self, seconds: float) -> None:
        """Say that the next `seconds` of audio are missing, such as lost packets or silence that is not sent.  Times go on.

        After a broken connection they are sent as silence.
        """
        if not 0 <= seconds <= 3600:
            raise UserError(f"a gap of {seconds:g} s: it must be from 0 to 3600 s")
        self._kept = np.concatenate([self._kept, np.zeros(round(seconds * self.rate), np.float32)])
        try:
            self._socket.send(json.dumps({"type": "gap", "seconds": seconds}))
            self._read()
        except (self._errors.ConnectionClosed, OSError):
            self._recover()

    def flush(self) -> None:
        """Finalize all audio sent so far, and wait for its text."""
        self._ask({"type": "flush", "id": ""}, "flushed")

    def finish(self) -> str:
        """End the audio, wait for the last messages, and return the text."""
        self._ask({"type": "stop"}, "done")
        return self.text

    def _ask(self, message: dict[str, Any], answer: str) -> None:
        while True:
            try:
                self._socket.send(json.dumps(message))
                return self._read(until=answer)
            except (self._errors.ConnectionClosed, OSError):
                self._recover()

    def _send(self, samples: np.ndarray) -> None:
        data = samples.astype("<f4").tobytes()
        for at in range(0, len(data), MESSAGE):
            self._socket.send(data[at : at + MESSAGE])
        self._read()

    def _read(self, until: str | None = None) -> None:
        """Pass on messages that have arrived, or all up to a message of type `until`."""
        while True:
            try:
                message = json.loads(self._socket.recv(timeout=None if until else 0))
            except TimeoutError:
                return
            if message["type"] == "error" and message["code"] != "failed":
                raise _refusal(message)
            self._move(message)
            if message["type"] == "final":
                self.finals.append(message)
                self._breaks = 0
            if message["type"] in ("final", "quiet"):
                self._forget(message["until"])
            if message["type"] == "flushed":
                self._base, self._kept = self._base + len(self._kept) / self.rate, self._kept[:0]
            self.on_message(message)
            if message["type"] == until:
                return

    def _move(self, message: dict[str, Any]) -> None:
        """Turn times and the number of the segment from those of this connection into those of the whole session."""
        for part in (message, *message.get("words", ())):
            for key in part.keys() & {"start", "end", "until", "at"}:
                part[key] = round(part[key] + self._begun, 3)
        if "segment" in message:
            message["segment"] = len(self.finals)
        if message["type"] == "done":
            message["seconds"] = round(message["seconds"] + self._begun, 3)

    def _forget(self, until: float) -> None:
        """Drop kept audio before `until`, in seconds of the whole session."""
        done = max(0, round((until - self._base) * self.rate))
        self._kept = self._kept[done:]
        self._base += done / self.rate

    def _recover(self) -> None:
        """Open a new connection and send the kept audio; UserError after too many breaks."""
        if time.monotonic() - self._opened > STEADY:
            self._breaks = 0
        why: Exception | None = None
        while self._breaks < self.retries:
            self._breaks += 1
            time.sleep(min(0.1 * 2**self._breaks, 5.0))
            try:
                self._open()
                self._begun = self._base
                return self._send(self._kept)
            except (self._errors.ConnectionClosed, UserError, OSError) as error:
                why = error
        raise UserError(
            f"{self.url}: the connection broke {self.retries} times in a row ({why or 'soon after opening'})"
        )

    def _open(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else None
        address = f"{self.url.rstrip('/')}/v1/stream"
        try:
            with contextlib.suppress(self._errors.WebSocketException, OSError):
                self._connection.close()
            connection = self._connect(address, additional_headers=headers, compression=None, max_size=1 << 24)
            self._socket = self._connection.enter_context(connection)
            self._socket.send(json.dumps(self._start))
            ready = json.loads(self._socket.recv(timeout=30))
        except self._errors.InvalidStatus as error:
            status = error.response.status_code
            why = "a token is missing or wrong" if status in (401, 403) else "it refuses the connection"
            raise UserError(f"{address}: {why} (HTTP {status})") from None
        except (self._errors.WebSocketException, OSError) as error:
            raise UserError(f"{address}: no service there ({error})") from None
        if ready["type"] == "error":
            raise _refusal(ready)
        self._opened = time.monotonic()
        self.on_message(ready)


def _refusal(error: dict[str, Any]) -> UserError:
    if error["code"] == "busy":
        return Busy(error["message"], error.get("retry_after", 1))
    return UserError(f"the service says: {error['message']}")
