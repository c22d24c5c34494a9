"""The Triton kernels compile for GPUs that are not here; what they compute, the tests of their ops say, interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.checks import every_backend


@every_backend(["triton"])
@pytest.mark.parametrize("architecture", ["80", "90"])  # A100, H100
def test_every_kernel_compiles(backend, architecture):
    if not sys.platform.startswith("linux"):
        pytest.skip("triton carries the assembler for Linux alone")
    really = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.ops.compile_kernels", architecture]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=really, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from tests.ops.compile_kernels import KERNELS

    assert len(done.stdout.splitlines()) == len(KERNELS)
