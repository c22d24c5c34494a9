"""Threads of operations."""

from __future__ import annotations

import os

import pytest
import torch

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
