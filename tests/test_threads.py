"""Threads of operations."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch

from samba_asr.cli import main
from samba_asr.threads import Worker, share, threads


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


def test_a_worker_does_urgent_jobs_first_and_survives_errors(caplog):
    worker, free, begun, over, done = Worker("test"), threading.Event(), threading.Event(), threading.Event(), []

    def first():
        begun.set()
        assert free.wait(60)
        done.append("first")

    def fails():
        raise ValueError("planted")

    worker.submit(first, urgent=False)
    assert begun.wait(60)
    worker.submit(lambda: done.append("b"), urgent=False)
    worker.submit(fails, urgent=True)
    worker.submit(lambda: done.append("a1"), urgent=True)
    worker.submit(lambda: done.append("a2"), urgent=True)
    worker.submit(over.set, urgent=False)
    free.set()
    assert over.wait(60)
    assert done == ["first", "a1", "a2", "b"]
    assert "a job of the thread test failed" in caplog.text
    worker.close(timeout=60)
    assert not worker._thread.is_alive()
    worker.submit(lambda: done.append("late"), urgent=True)
    assert len(done) == 4


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
