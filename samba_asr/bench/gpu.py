"""Measurements on a GPU: `python -m samba_asr.bench.gpu PART SECONDS FILE`, one process a part, for `egs/bench/gpu.sh`.

Each row is one line of JSON, appended to FILE when it is measured, the most important rows first.  What fails, or does not fit
into SECONDS, is a row too, with the reason in `left_out`.  Peers tune themselves at their first call: that is done, and bounded,
before any of their rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from samba_asr import config as configs
from samba_asr.bench import ops, peer_ops, train
from samba_asr.device import choose_device

TUNING = 45.0  # seconds for a peer's first call, at most
ROUNDS = 10

Row = dict[str, Any]
Work = tuple[Row, Callable[[], Row]]  # what is measured, and how


class Part:
    """One part's time and its rows."""

    def __init__(self, name: str, seconds: float, file: Path):
        self.name, self.file, self.end = name, file, time.monotonic() + seconds

    def run(self, works: Iterator[Work]) -> None:
        """Measure one after another, and write each row."""
        for what, work in works:
            left = self.end - time.monotonic()
            if left < 1:
                self.write({**what, "left_out": "no time was left"})
                continue
            try:
                with limit(left):
                    found = work()
            except Exception as error:  # a row that fails must not take the others along
                found = {"left_out": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
            self.write({**what, **found})

    def write(self, row: Row) -> None:
        line = json.dumps({"part": self.name, **row})
        print(line, flush=True)
        with self.file.open("a") as file:
            file.write(line + "\n")


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def scans(device: str, kinds: tuple[str, ...] = ("selective_scan", "ssd"), d_model: int = 256) -> Iterator[Work]:
    """S6 and SSD, or mixers: ours at all lengths, then each peer, once it is tuned."""
    lengths = (250, 500, 1500, 4000)
    own = "triton" if kinds[0] in ops.SCANS else "auto"
    peers = [(op, name) for op in kinds for name in peer_ops.PEERS.get(op, {}) if name in peer_ops.CUDA]
    for op, length in itertools.product(kinds, lengths):
        yield _scan(op, own, length, device, d_model)
    for op, name in peers:
        what = {"op": op, "backend": name}
        if not peer_ops.runs(name, torch.device(device).type):
            yield what, lambda: {"left_out": "not installed, or not for this device"}
            continue
        yield {**what, "tuning": True}, lambda op=op, name=name: _tuned(op, name, device, d_model)
        for length in lengths:
            yield _scan(op, name, length, device, d_model)


def mixers(device: str) -> Iterator[Work]:
    return scans(device, ("mamba", "mamba2", "hydra"))


def _scan(op: str, backend: str, length: int, device: str, d_model: int) -> Work:
    what = {"op": op, "backend": backend, "batch": 8, "length": length, "d_model": d_model, "dtype": "bfloat16"}
    return what, lambda: ops.main(**what, device=device, rounds=ROUNDS)


def _tuned(op: str, name: str, device: str, d_model: int) -> Row:
    began = time.monotonic()
    with limit(TUNING):
        make = ops._scan if op in ops.SCANS else ops._mixer
        ops._train(make(op, name, 8, 250, d_model, torch.bfloat16, choose_device(device)))
    return {"seconds": time.monotonic() - began}


def live(device: str) -> Iterator[Work]:
    """Live steps of `small`'s encoder alone: blocks of 16 frames, 640 ms; with graphs and without."""
    for rows, graphs in itertools.product((1, 32, 256, 1024), (True, False)):
        what = {"rows": rows, "graphs": graphs, "frames": 16}
        yield what, lambda rows=rows, graphs=graphs: _live(rows, graphs, choose_device(device))


def _live(rows: int, graphs: bool, device: torch.device) -> Row:
    from samba_asr.models.encoder import Encoder
    from samba_asr.runtime.graphs import LayerGraphs

    config = dataclasses.replace(configs.load(["model/small"]).model, vocab_size=256)
    encoder = Encoder(config).to(device).eval()
    if graphs:
        encoder.live_step = LayerGraphs(encoder.one_block)
    x, lengths = torch.randn(rows, 16, config.d_model, device=device), torch.full((rows,), 16, device=device)
    state = encoder.init_state(rows, block=16, device=device)
    with torch.inference_mode():
        return {"ms": 1000 * ops._seconds(lambda: encoder.step(x, lengths, state), device, 3 * ROUNDS)}


def training(device: str) -> Iterator[Work]:
    """Steps of `small` and `base` on synthetic audio: launches and the GPU's own time of a step, then the speed with reading."""
    for size in ("small", "base"):
        yield {"model": size, "what": "step"}, lambda size=size: _profiled(size, device)
    for size in ("small", "base"):
        files = [f"model/{size}", "train/gpu", "mini_librispeech"]
        yield (
            {"model": size, "what": "with reading"},
            lambda files=files: train.main(files, ["data.batch_seconds=600", f"train.device={device}"], None, 15.0),
        )


def _profiled(size: str, device: str) -> Row:
    """Take steps on one batch of synthetic audio; return times and launches of one."""
    from torch.profiler import ProfilerActivity, profile

    from samba_asr.training.step import SeededBatch

    config = configs.load([f"model/{size}", "train/gpu", "mini_librispeech"], [f"train.device={device}"])
    at, numbers = choose_device(device), itertools.count(1)
    with tempfile.TemporaryDirectory() as folder:
        task, stepper = train.prepare(config, train.synthetic(Path(folder), 16000), Path(folder))
        batch = task.data.epoch(1)[0]
        step = lambda: stepper.step([SeededBatch(batch, 1)], number=next(numbers), lr=1e-4)  # noqa: E731
        for _ in range(3):
            step()
        seconds = ops._seconds(step, at, ROUNDS)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            step()
            ops._wait(at)
    kernels = [e for e in seen.events() or () if e.device_type.name == "CUDA"]
    busy = sum(e.device_time_total for e in kernels) / 1e6
    audio = float(batch.lengths.sum()) / config.model.features.sample_rate
    return {
        "seconds": seconds,
        "busy": busy,
        "launches": len(kernels),
        "audio": audio,
        "hours_per_hour": audio / seconds,
    }


PARTS: dict[str, Callable[[str], Iterator[Work]]] = {
    "training": training,
    "live": live,
    "scans": scans,
    "mixers": mixers,
}


def main(name: str, seconds: str, file: str, device: str = "cuda:0") -> None:
    Part(name, float(seconds), Path(file)).run(PARTS[name](device))


if __name__ == "__main__":
    main(*sys.argv[1:])
