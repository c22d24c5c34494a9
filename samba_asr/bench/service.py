"""A service to measure: its process, speech to send to it, and the expected texts."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from samba_asr.decoding.turns import TurnRules
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from samba_asr.result import Result

DIGITS = Path("egs/digits/data/manifest.jsonl")


class Running(NamedTuple):
    """A running service."""

    url: str  # ws://...
    pid: int
    wyoming: int | None = None  # port of that protocol


@contextlib.contextmanager
def running(
    model: Path | None,
    device: str,
    settings: Sequence[str],
    max_sessions: int,
    log: IO | int = subprocess.DEVNULL,
    wyoming: bool = False,
) -> Iterator[Running]:
    """Run `samba-asr serve --set SETTINGS` on a free port, with its log in `log`; UserError if it does not start.

    wyoming: whether it speaks that protocol too.  SIGTERM ends it.
    """
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as other:
        port, events = free.getsockname()[1], other.getsockname()[1] if wyoming else None
    command = [sys.executable, "-m", "samba_asr.cli", "serve", "--port", str(port), "--device", device, "--log", "json"]
    command += ["--max-sessions", str(max_sessions), *(["--model", str(model)] if model else [])]
    command += ["--set", *settings] if settings else []
    command += ["--wyoming", str(events)] if events else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    try:
        _wait(process, port)
        yield Running(f"ws://127.0.0.1:{port}", process.pid, events)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait(process: subprocess.Popen, port: int) -> None:
    for _ in range(1800):  # three minutes: a busy machine takes one to import everything
        if process.poll() is not None:
            raise UserError("the service ended at once: run samba-asr serve to see its error")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise UserError("the service does not answer: run samba-asr serve to see its log")


def clips(manifest: Path | None, rate: int, seconds: float) -> list[np.ndarray]:
    """Cut about eight clips of `seconds` each from a manifest, by default that of the digits recipe."""
    from samba_asr.data.dataset import AudioStore
    from samba_asr.data.manifest import read_manifest

    manifest = manifest or DIGITS
    if not manifest.is_file():
        raise UserError(f"{manifest}: no such manifest; name one with --data")
    store, parts, length = AudioStore(rate, cache=False), [], 0
    for utterance in read_manifest(manifest):
        parts.append(store.load(utterance))
        length += len(parts[-1])
        if length > 8 * seconds * rate:
            break
    speech, size = np.concatenate(parts), int(seconds * rate)
    if len(speech) < size:
        raise UserError(f"{manifest} has {len(speech) / rate:.0f} s of audio, less than --seconds {seconds:g}")
    return [speech[at : at + size] for at in range(0, len(speech) - size + 1, size)]


def texts(
    recognizer: Recognizer, speech: Sequence[np.ndarray], latency_ms: float, turns: TurnRules | None = None
) -> list[str]:
    """Recognize clips without a service."""
    return [Result.of(recognizer.listen(clip, latency_ms=latency_ms, turns=turns)).text for clip in speech]
