"""The toy of tests/training under torchrun's agent.

Run as a program it is torchrun, but that workers are forks of it: so torch, which takes longest, is imported once.
The command itself is tested with the recipe of 960 hours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def torchrun(folder: Path, data: Path, *args: str, processes: int, restarts: int = 0) -> str:
    """Train the toy with processes on this machine; return what they write to stderr."""
    command = [
        sys.executable,
        "-m",
        "tests.support.torchrun",
        str(processes),
        str(restarts),
        str(folder),
        str(data),
        *args,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def launch(processes: int, restarts: int, *args: str) -> None:
    """Train with processes on this machine; start all again if one dies, at most `restarts` times."""
    import torch.distributed.checkpoint
    import torch.distributed.fsdp  # noqa: F401  (for the forks)
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from tests.training.toy import main

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        rdzv_configs={"is_host": True},
        run_id="toy",
        max_restarts=restarts,
        monitor_interval=0.1,
        start_method="fork",
    )
    elastic_launch(config, main)(args)


if __name__ == "__main__":
    launch(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
