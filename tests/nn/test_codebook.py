"""The codebook: nearest codes, moving averages after the step, dead codes, several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from samba_asr.config import Config
from samba_asr.models.asr import AsrModel
from samba_asr.nn import codebook
from samba_asr.nn.auxiliary import collect
from samba_asr.nn.codebook import Codebook
from samba_asr.training.objectives import objectives
from samba_asr.training.step import SeededBatch, Stepper
from tests.models.tiny import batch, tiny
from tests.support.codes import published
from tests.support.work import CPU

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, torch, torch.distributed as dist
from samba_asr.nn.codebook import Codebook
folder, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
book = Codebook(6, 4).train()
for step in range(15):
    book.before_step()
    torch.manual_seed(2 * step + rank)
    book(torch.randn(3, 10, 4, generator=torch.Generator().manual_seed(rank)), None)
    book.after_step()
torch.save(book.state_dict(), f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def keys(b=3, t=10, r=4, seed=0):
    return torch.randn(b, t, r, generator=torch.Generator().manual_seed(seed))


def test_the_update_is_a_moving_average(monkeypatch):
    monkeypatch.setattr(codebook, "DECAY", 0.9)
    book, k, _, _ = published()
    hot = book.train()(k[None], None)
    before = book.codes.clone()
    book.after_step()
    torch.testing.assert_close(book.counts, torch.tensor([1.1, 1.1, 1.2, 1.1], dtype=torch.float64))
    want = torch.tensor([0.2402028265, 0.9778896721, 0.3975260591], dtype=torch.float64)
    torch.testing.assert_close(book.codes[0], want, rtol=0, atol=1e-9)
    nearest = (k[:, None] - before).square().sum(-1).argmin(-1)  # by the codes from before the step
    assert torch.equal(hot[0].argmax(-1), nearest)


def test_the_commitment_is_the_distance_to_the_codes():
    book, k, _, _ = published()
    book.train()
    with collect([book.commitment]):
        book(k[None].repeat(2, 1, 1), torch.tensor([9, 4]))
        (value,) = book.commitment.values
    assert value[0].item() / 9 == pytest.approx(0.5518076857)
    assert value[1].item() == pytest.approx((k[:4] - book.codes[[3, 2, 3, 2]]).square().sum().item())


def test_neither_padding_nor_what_is_not_finite_is_counted():
    book, k = Codebook(5, 4).train(), keys()
    k[0, 3:], k[1, 2] = float("nan"), float("inf")
    book(k, torch.tensor([3, 10, 0]))
    assert book.seen_counts.sum() == 3 + 9
    book.after_step()
    assert book.codes.isfinite().all()


def test_only_training_counts_and_a_step_that_begins_again_forgets():
    book = Codebook(5, 4).eval()
    book(keys(), None)
    assert not book.seen_counts.any()
    book.train()(keys(), None)
    assert book.seen_counts.sum() == 30
    book.before_step()
    assert not book.seen_counts.any()
    assert not book.seen_sums.any()
    assert (book.candidates[:, 0] == -1).all()


def test_a_dead_code_gets_a_vector_of_the_step_with_its_sum():
    book = Codebook(3, 4).train()
    book.sums[1] = 1000.0  # far from everything
    k = keys(t=40)
    while book.counts[1] <= 1:  # it falls by DECAY, and the mean rises
        book.before_step()
        book(k, None)
        assert book.counts[1] > 0.5
        book.after_step()
    assert (k - book.codes[1]).square().sum(-1).min() < 1e-8
    others = book.counts[[0, 2]].mean()
    assert 0.5 * others < book.counts[1] < others  # the mean with the dead code's
    book.before_step()
    book(k, None)
    assert book.seen_counts[1] > 0
    book.after_step()
    assert book.codes[1].abs().max() < 10  # the sums of the dead code are gone


def test_without_vectors_dead_codes_wait():
    book = Codebook(3, 4).train()
    book.counts[1] = 0.01
    book.after_step()
    assert book.counts[1] == pytest.approx(0.0099)


def objective():
    torch.manual_seed(0)
    config = Config(model=tiny("longvq", dropout=0.0, blocks=()))
    return objectives.build("speech", AsrModel(config.model), config, feature_transforms=()), config


def books(made) -> list[Codebook]:
    return [m for m in made.modules() if isinstance(m, Codebook)]


def test_a_model_with_it_trains_and_logs_the_commitment():
    made, config = objective()
    stepper = Stepper(made, config, CPU)
    before = [b.codes.clone() for b in books(made)]
    assert len(before) == 2
    losses = [stepper.step([SeededBatch(batch(), 1)], number=n, lr=0.01).result().losses for n in range(1, 6)]
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert losses[0]["commitment"] > 0
    for old, book in zip(before, books(made), strict=True):
        assert (book.codes - old).abs().max() > 1e-4
        assert book.seen_counts.sum() == 12 + 9 + 7  # of the last step
    state = made.net.state_dict()
    assert not any("seen" in name or "candidates" in name for name in state)


def test_a_step_cut_in_two_for_memory_updates_once(monkeypatch):
    steps = []
    for limit in (10, 2):
        made, config = objective()
        compute = made.compute

        def some(given, compute=compute, limit=limit, **how):
            found = compute(given, **how)
            if len(given.ids) > limit:  # after the forward pass, which has counted
                raise torch.OutOfMemoryError("simulated")
            return found

        made.compute = some
        Stepper(made, config, CPU).step([SeededBatch(batch(), 1)], number=1, lr=0.01).result()
        steps.append([(b.seen_counts.clone(), b.counts.clone(), b.sums.clone()) for b in books(made)])
    for whole, cut in zip(*steps, strict=True):
        assert torch.equal(whole[0], cut[0])
        torch.testing.assert_close(whole[1:], cut[1:])


def test_two_processes_have_the_codes_of_one(tmp_path):
    """Each has one of the two batches; `torch.manual_seed` stands for the seed of a batch."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    both = [subprocess.Popen([*command, str(rank)], cwd=ROOT, env=env) for rank in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    torch.manual_seed(0)
    one = Codebook(6, 4).train()
    for step in range(15):
        one.before_step()
        for rank in range(2):
            torch.manual_seed(2 * step + rank)
            one(keys(seed=rank), None)
        one.after_step()
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(value, one.state_dict()[name], rtol=1e-5, atol=1e-5)
