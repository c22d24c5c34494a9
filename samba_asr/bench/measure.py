"""Measurements in separate processes: each has its own peak memory, and all have the same number of threads."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from samba_asr.errors import UserError

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def apart(module: str, threads: int, question: dict[str, Any]) -> dict[str, Any]:
    """Run `answer` in `python -m module` on `question`, with so many threads; a UserError there is raised here."""
    environment = {**os.environ, **dict.fromkeys(VARIABLES, str(threads))}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)  # the same samba_asr, installed or not
    done = subprocess.run(
        [sys.executable, "-m", module], input=json.dumps(question), env=environment, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise RuntimeError(f"{module} ended with status {done.returncode}:\n{done.stderr[-4000:]}")
    said = json.loads(lines[-1])
    if "error" in said:
        raise UserError(said["error"])
    return said["result"]


def answer(work: Callable[..., dict[str, Any]]) -> None:
    """Serve one `apart` call: call `work` with the question, and print its result with peak memory added."""
    question = json.load(sys.stdin)
    try:
        said = {"result": {**work(**question), **peak_memory()}}
    except UserError as error:
        said = {"error": str(error)}
    print(json.dumps(said))


def _search(pattern: str, file: str) -> str:
    """Return the group of the pattern in a file of the system; OSError if it does not match."""
    found = re.search(pattern, Path(file).read_text())
    if found is None:
        raise OSError(f"{file}: no {pattern}")
    return found[1]


def peak_memory() -> dict[str, float]:
    """Return this process's peak memory in MiB: resident `memory`, and torch's `gpu_memory`, 0 without CUDA."""
    # Not getrusage if avoidable: on Linux its maximum survives exec, so it would be that of the parent.
    try:
        peak = float(_search(r"VmHWM:\s+(\d+) kB", "/proc/self/status")) / 1024
    except OSError:
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    torch = sys.modules.get("torch")
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch and torch.cuda.is_available() else 0.0
    return {"memory": peak, "gpu_memory": gpu}


def resident_memory(device: Any) -> float:
    """Return this process's memory now, in MiB; on CUDA that of torch's tensors.  Without /proc: the peak so far."""
    torch = sys.modules["torch"]
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    try:
        return float(_search(r"VmRSS:\s+(\d+) kB", "/proc/self/status")) / 1024
    except OSError:
        return peak_memory()["memory"]


def hardware(device: str) -> str:
    """Return the hardware name of a torch device: the GPU's or the CPU's."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        return _search(r"model name\s*:\s*(.+)", "/proc/cpuinfo")
    except OSError:
        return platform.processor() or platform.machine()
