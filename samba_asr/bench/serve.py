"""Latency of a running service under any number of clients, each sending speech in real time."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any, NamedTuple

import numpy as np

from samba_asr.bench.turns import Notice, Talk, judge
from samba_asr.client import websockets
from samba_asr.metrics.wer import score

STEP = 0.1  # seconds of audio in a message


class ClientReport(NamedTuple):
    """Measurements of one client, in seconds."""

    lags: list[float]  # for each partial: time since the audio that it covers was sent
    first: float | None  # from the first audio to the first partial
    final: float | None  # from stop to done: latency (a) of finals
    ended: list[float]  # from the last word's end to its final, the wait of the endpoint included: latency (b)
    text: str
    refused: str  # reason, or ""
    eager: list[Notice]  # eager ends of turn
    turns: list[Notice]  # ends of turn


async def speak(
    url: str,
    samples: np.ndarray,
    rate: int,
    latency_ms: float,
    wait: float,
    token: str = "",
    turns: dict[str, Any] | None = None,
) -> ClientReport:
    """Run one client, which begins after `wait` seconds and sends samples (s,) in real time.

    turns: the fields of its `start` that ask for turns.
    """
    library = websockets()
    connect, WebSocketException = library.asyncio.client.connect, library.exceptions.WebSocketException

    await asyncio.sleep(wait)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    lags, first, finals, refused, stopped, final, ended = [], None, [], "", None, None, []
    notices: dict[str, list[Notice]] = {"eager_end": [], "turn_ended": []}
    data, size = samples.astype("<f4").tobytes(), int(STEP * rate) * 4
    try:
        async with connect(f"{url}/v1/stream", additional_headers=headers, compression=None, open_timeout=30) as socket:
            start = {
                "type": "start",
                "sample_rate": rate,
                "encoding": "pcm_f32le",
                "latency_ms": latency_ms,
                "words": False,
                **(turns or {}),
            }
            await socket.send(json.dumps(start))
            began = time.monotonic()

            async def send() -> None:
                nonlocal stopped
                for n, at in enumerate(range(0, len(data), size), 1):
                    await asyncio.sleep(
                        max(0.0, began + n * STEP - time.monotonic())
                    )  # sent when it would have been spoken
                    await socket.send(data[at : at + size])
                stopped = time.monotonic()
                await socket.send(json.dumps({"type": "stop"}))

            sending = asyncio.create_task(send())
            try:
                async for text in socket:
                    message, now = json.loads(text), time.monotonic()
                    if message["type"] == "partial":
                        lags.append(now - (began + message["until"]))
                        first = now - began if first is None else first
                    elif message["type"] == "final":
                        finals.append(message["text"])
                        if not stopped:  # by its endpoint
                            ended.append(now - (began + message["end"]))
                    elif message["type"] in notices:
                        notices[message["type"]].append(Notice(message["until"], now - began))
                    elif message["type"] == "error":
                        refused = message["code"]
                    elif message["type"] == "done" and stopped:
                        final = now - stopped
            finally:
                sending.cancel()
    except (WebSocketException, OSError) as error:
        refused = refused or type(error).__name__
    text = " ".join(finals)
    return ClientReport(lags, first, final, ended, text, refused, notices["eager_end"], notices["turn_ended"])


async def _all(url, clips, n, rate, latency_ms, token, turns) -> list[ClientReport]:
    draw = random.Random(n)
    waits = [draw.uniform(0, 1.0) for _ in range(n)]  # clients do not begin at the same moment
    return await asyncio.gather(
        *(speak(url, clips[i % len(clips)], rate, latency_ms, waits[i], token, turns) for i in range(n))
    )


def measure(
    url: str,
    clips: list[np.ndarray],
    texts: list[str],
    n: int,
    rate: int,
    latency_ms: float,
    pid: int,
    token: str = "",
    talks: list[Talk] | None = None,
    turns: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure n clients at once.  texts: of each clip, by the recognizer alone.  pid: process of the service.

    talks, turns: the talks that the clips are, and the fields of `start` that ask for turns, to measure those.
    """
    cpu, began = cpu_seconds(pid), time.monotonic()
    reports = asyncio.run(_all(url, clips, n, rate, latency_ms, token, turns))
    seconds = time.monotonic() - began
    served = [h for h in reports if not h.refused]
    lags = sorted(lag for h in served for lag in h.lags)
    first = sorted(h.first for h in served if h.first is not None)
    final = sorted(h.final for h in served if h.final is not None)
    ended = sorted(seconds for h in served for seconds in h.ended)
    return {
        "clients": n,
        "refused": n - len(served),
        "lost": len(served) - len(final),
        "differing": sum(h.text != texts[i % len(texts)] for i, h in enumerate(reports) if not h.refused),
        "partial_p50": _at(lags, 0.5),
        "partial_p95": _at(lags, 0.95),
        "first_p50": _at(first, 0.5),
        "final_p50": _at(final, 0.5),
        "final_p95": _at(final, 0.95),
        "speech_final_p50": _at(ended, 0.5),
        "speech_final_p95": _at(ended, 0.95),
        "cores": (cpu_seconds(pid) - cpu) / seconds,
        "memory": memory(pid),
        **(_turns([(talks[i % len(talks)], h) for i, h in enumerate(reports) if not h.refused], rate) if talks else {}),
    }


def _turns(served: list[tuple[Talk, ClientReport]], rate: int) -> dict[str, Any]:
    """Return delays and early ends of turn, and the word error rate."""
    hours = sum(len(talk.samples) for talk, _ in served) / rate / 3600
    found: dict[str, Any] = {}
    for name in ("eager", "turns"):
        judged = [judge(talk.sounds, getattr(report, name)) for talk, report in served]
        delays = sorted(delay for some, _ in judged for delay in some)
        early = sum(early for _, early in judged)
        found |= {f"{name}_p50": _at(delays, 0.5), f"{name}_p95": _at(delays, 0.95), f"{name}_met": len(delays)}
        found[f"{name}_early_per_hour"] = early / hours if hours else None
    references = {str(n): talk.text.upper() for n, (talk, _) in enumerate(served)}
    texts = {str(n): report.text.upper() for n, (_, report) in enumerate(served)}
    return {
        **found,
        "ends": sum(len(t.sounds) for t, _ in served),
        "wer": score(references, texts).wer if served else None,
    }


def _at(ordered: list[float], share: float) -> float | None:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far; 0 without /proc."""
    import os

    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Return the resident memory of a process in MiB; 0 without /proc."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next(float(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))
    except (OSError, StopIteration):
        return 0.0
