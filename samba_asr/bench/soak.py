"""Endurance test: clients of all kinds on a running service, with a check of their texts and a search for leaks.

    live      sends in real time and reads to the end
    fast      sends all at once
    stalling  pauses in the middle for seconds, then continues
    slow      reads nothing until all is sent
    leaving   closes the connection in the middle
    dying     aborts the connection in the middle
    lines     sends a body over HTTP and reads lines
    file      uploads a file
    junk      sends invalid messages or invalid audio
    http      sends bad HTTP: `samba_asr.bench.hostile`

For live, fast, stalling, slow, lines and file the text must be that of the recognizer alone; the other kinds must not disturb
them.  After all clients have left, every place must be free again.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from samba_asr.bench.hostile import ACTS, Hostile, form
from samba_asr.bench.serve import STEP, memory
from samba_asr.client import websockets

SPEAKING = ("live", "live", "live", "fast", "stalling", "slow", "lines", "file")
SORTS = (*SPEAKING, "leaving", "dying", "junk", "http", "http", "http", "http")
WARM, FLAT = 600.0, 0.05
SETTLE = 90.0  # seconds for the service to notice that its clients have left
JUNK = (b"\xff" * 999, "{", "[]", '{"type": "jump"}', '{"type": "start", "sample_rate": 1}', "x" * 5000)


@dataclass
class Tally:
    """Results of an endurance test."""

    ended: Counter[str] = field(default_factory=Counter)  # clients, by kind
    refused: int = 0  # clients refused because the service was full
    lost: int = 0  # clients that did not receive the end
    differing: int = 0  # texts that differ from the recognizer's
    wrong: Counter[str] = field(default_factory=Counter)  # bad requests with a wrong answer, by kind
    held: dict[str, int] = field(default_factory=dict)  # places still taken after all clients have left
    memory: list[tuple[float, float]] = field(default_factory=list)  # seconds since the beginning, MiB

    def growth(self) -> float:
        """Return the growth of memory in MiB an hour, by least squares over the second half, when all caches are full."""
        half = [(t, m) for t, m in self.memory if t >= self.memory[-1][0] / 2] if self.memory else []
        if len(half) < 3:
            return 0.0
        return float(np.polyfit([t / 3600 for t, _ in half], [m for _, m in half], 1)[0])

    @property
    def flat(self) -> bool:
        """Whether memory grew by less than `FLAT` of it over the second half; True before `WARM` seconds, as it is unknown."""
        seconds, mib = self.memory[-1] if self.memory else (0.0, 0.0)
        return seconds < WARM or self.growth() * seconds / 2 / 3600 < FLAT * mib


class Soak:
    """Clients of all kinds on one service."""

    def __init__(
        self,
        url: str,
        pid: int,
        clips: list[np.ndarray],
        texts: list[str],
        rate: int,
        latency_ms: float,
        wyoming: int | None = None,
    ):
        """pid: process of the service.  texts: of each clip, by the recognizer alone.  wyoming: port of that protocol."""
        library = websockets()
        self._connect, self._broken = library.asyncio.client.connect, (library.exceptions.WebSocketException, OSError)
        self.url, self.pid, self.clips, self.texts, self.rate, self.latency_ms = (
            url,
            pid,
            clips,
            texts,
            rate,
            latency_ms,
        )
        self.tally, self.hostile, self._sockets = Tally(), Hostile(url, wyoming), 0

    async def run(self, clients: int, seconds: float, every: float, report: Callable[[Tally], None]) -> Tally:
        """Run `clients` at a time for `seconds`.  report: called every `every` seconds."""
        await asyncio.sleep(0.5)  # until the connection of the start-up check is closed
        self._sockets, began = sockets(self.pid), time.monotonic()
        tasks = [asyncio.create_task(self._client(random.Random(n), began + seconds)) for n in range(clients)]
        waiting = asyncio.gather(*tasks)
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=every)
            self.tally.memory.append((time.monotonic() - began, memory(self.pid)))
            report(self.tally)
        waiting.result()
        until = time.monotonic() + SETTLE
        while any((await self.held()).values()) and time.monotonic() < until:
            await asyncio.sleep(0.5)
        return self.tally

    async def held(self) -> dict[str, int]:
        """Return the number of taken places, by kind."""
        with await asyncio.to_thread(urllib.request.urlopen, f"{self._http}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        await asyncio.sleep(0.2)  # until the service has closed this connection
        self.tally.held = {
            "sessions": _sum(text, "samba_asr_sessions_active"),
            "uploads": _sum(text, "samba_asr_uploads_active"),
            "connections": max(0, sockets(self.pid) - self._sockets),
        }
        return self.tally.held

    @property
    def _http(self) -> str:
        return self.url.replace("ws", "http", 1)

    async def _client(self, draw: random.Random, until: float) -> None:
        await asyncio.sleep(draw.uniform(0, 3))
        while time.monotonic() < until:
            sort, n = draw.choice(SORTS), draw.randrange(len(self.clips))
            if sort == "http":
                sort = draw.choice(list(ACTS))
                self.tally.wrong[sort] += not await self.hostile.act(sort, draw)
                self.tally.ended[sort] += 1
                continue
            try:
                if sort == "lines":
                    text = await asyncio.to_thread(self._post, n)
                elif sort == "file":
                    text = await asyncio.to_thread(self._upload, n)
                else:
                    text = await self._speak(sort, n, draw)
            except _Busy:
                self.tally.refused += 1
                await asyncio.sleep(draw.uniform(1, 3))
                continue
            except self._broken:
                text = None
            self.tally.ended[sort] += 1
            if sort not in SPEAKING:
                continue
            if text is None:
                self.tally.lost += 1
            elif text != self.texts[n]:
                self.tally.differing += 1

    async def _speak(self, sort: str, n: int, draw: random.Random) -> str | None:
        """Send a clip over a WebSocket; return the text, or None without the end."""
        data, size = self.clips[n].astype("<f4").tobytes(), int(STEP * self.rate) * 4
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        middle = draw.randrange(1, len(pieces))
        start = {"type": "start", "sample_rate": self.rate, "encoding": "pcm_f32le", "latency_ms": self.latency_ms}
        async with self._connect(f"{self.url}/v1/stream", compression=None, open_timeout=60) as socket:
            if sort == "junk":
                await socket.send(draw.choice(JUNK))
                await socket.send(json.dumps({"type": "stop"}))  # in case it was accepted as audio
                return await _read(socket)
            await socket.send(json.dumps(start))
            reading = None if sort == "slow" else asyncio.create_task(_read(socket))
            try:
                for k, piece in enumerate(pieces):
                    if k == middle and sort == "leaving":
                        return None
                    if k == middle and sort == "dying":
                        return socket.transport.abort()
                    if k == middle and sort == "stalling":
                        await asyncio.sleep(draw.uniform(1, 8))
                    await socket.send(piece)
                    if sort != "fast":
                        await asyncio.sleep(STEP)
                await socket.send(json.dumps({"type": "stop"}))
                return await (reading or _read(socket))
            except self._broken:
                await (reading or _read(socket))  # raises _Busy if the service was full
                raise
            finally:
                if reading:
                    reading.cancel()
                    await asyncio.wait({reading})
                    if not reading.cancelled():
                        reading.exception()  # seen

    def _post(self, n: int) -> str | None:
        query = f"sample_rate={self.rate}&encoding=pcm_f32le&latency_ms={self.latency_ms:g}"
        request = urllib.request.Request(
            f"{self._http}/v1/transcribe/stream?{query}", self.clips[n].astype("<f4").tobytes()
        )
        messages = [json.loads(line) for line in _answer(request).splitlines()]
        done = messages and messages[-1]["type"] == "done"
        return " ".join(m["text"] for m in messages if m["type"] == "final") if done else None

    def _upload(self, n: int) -> str:
        import soundfile

        file = io.BytesIO()
        soundfile.write(file, self.clips[n], self.rate, format="WAV", subtype="FLOAT")
        kind, body = form(file.getvalue(), latency_ms=f"{self.latency_ms:g}")
        address = f"{self._http}/v1/audio/transcriptions"
        return json.loads(_answer(urllib.request.Request(address, body, {"Content-Type": kind})))["text"]


class _Busy(Exception):
    """Error: the service is full."""


def _answer(request: urllib.request.Request) -> bytes:
    """Send a request and return the answer's body; _Busy if the service is full, OSError for other refusals."""
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        if error.code == 503:
            raise _Busy from None
        raise


def sockets(pid: int) -> int:
    """Count the open sockets of a process; 0 without /proc."""
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return sum(_target(entry.path).startswith("socket:") for entry in entries)
    except OSError:
        return 0


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # closed meanwhile
        return ""


def _sum(metrics: str, name: str) -> int:
    """Sum a metric over all models."""
    return round(sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", metrics, re.MULTILINE)))


async def _read(socket) -> str | None:
    finals, done = [], False
    async for text in socket:
        message = json.loads(text)
        if message["type"] == "final":
            finals.append(message["text"])
        elif message["type"] == "error" and message["code"] == "busy":
            raise _Busy
        done |= message["type"] == "done"
    return " ".join(finals) if done else None
