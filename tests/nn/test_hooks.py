"""Hooks around a step: counts are summed over processes.  (How the trainer calls them: tests/training/objectives.)"""

from __future__ import annotations

import os
import subprocess
import sys

import torch
from torch import nn

from samba_asr.nn.hooks import AfterStep, BeforeStep, sum_over_processes

PROGRAM = """
import sys, torch, torch.distributed as dist
from samba_asr.nn.hooks import sum_over_processes
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[2]), world_size=2)
print(sum_over_processes(torch.tensor([1.0, 10.0]) * (1 + dist.get_rank())).tolist())
dist.destroy_process_group()
"""


def test_alone_nothing_is_summed():
    x = torch.ones(2)
    assert sum_over_processes(x) is x
    assert x.tolist() == [1, 1]


def test_two_processes_have_the_same_sum(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "meet")]
    both = [subprocess.Popen([*command, str(r)], stdout=subprocess.PIPE, text=True, env=env) for r in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == ["[3.0, 30.0]"] * 2


def test_a_module_has_a_hook_by_having_the_method():
    class After(nn.Module):
        def after_step(self): ...

    assert isinstance(After(), AfterStep)
    assert not isinstance(After(), BeforeStep)
    assert not isinstance(nn.Linear(1, 1), AfterStep)
