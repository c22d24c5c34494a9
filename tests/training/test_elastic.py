"""A process that dies: torchrun starts all again, and they continue from the last save as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import torch

from samba_asr.training import checkpoint
from tests.support.torchrun import torchrun
from tests.training.toy import recorded


def test_a_killed_rank_of_three_is_started_again_and_the_losses_are_those_of_a_quiet_run(corpus, tmp_path):
    data = Path(corpus[0].audio).parent / "corpus.jsonl"
    options = ("data.batch_seconds=0.3", "train.max_steps=8", "train.epochs=100")
    torchrun(tmp_path / "quiet", data, *options, processes=3)
    torchrun(tmp_path / "exp", data, *options, "--die-at=4", "--die-rank=1", processes=3, restarts=1)
    for rank in range(3):
        wanted, found = (recorded(tmp_path / name / f"losses-{rank}") for name in ("quiet", "exp"))
        assert set(wanted) == set(range(1, 9))
        assert found == wanted  # exactly
    a, b = (checkpoint.load(tmp_path / name / "last.pt") for name in ("quiet", "exp"))
    assert (a["step"], a["epoch"]) == (b["step"], b["epoch"])
    assert all(torch.equal(x, b["objective"][name]) for name, x in a["objective"].items())
