"""Threads of operations."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from samba_asr.cli import main
from samba_asr.threads import share, threads


@pytest.mark.parametrize(("have", "jobs", "each"), [(4, 2, 2), (4, 1, 4), (3, 2, 1), (2, 8, 1)])
def test_jobs_share_the_threads(monkeypatch, have, jobs, each):
    monkeypatch.setenv("OMP_NUM_THREADS", str(have))
    before = torch.get_num_threads()
    torch.set_num_threads(have)
    try:
        share(jobs)
        assert threads() == each
        assert os.environ["OMP_NUM_THREADS"] == str(each)  # of a library that is loaded later
    finally:
        torch.set_num_threads(before)


def test_commands_give_the_products_of_numpy_one_thread_unless_the_user_says_otherwise(monkeypatch, capsys):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert main(["transcribe"]) == 1
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert main(["transcribe"]) == 1
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"
    capsys.readouterr()
    early = "import samba_asr.cli, sys; sys.exit('numpy' in sys.modules)"  # it would have read the variable before
    assert subprocess.run([sys.executable, "-c", early], check=False).returncode == 0
