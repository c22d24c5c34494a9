"""A training step on a GPU launches its work and goes on: nothing inside it waits for what the device computes."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from samba_asr.bench.pretend import DEVICE, Pretend, move
from samba_asr.config import Config, LossConfig, TrainConfig
from samba_asr.models.asr import AsrModel
from samba_asr.ops.device import KERNELS
from samba_asr.training.distributed import Ranks
from samba_asr.training.objectives.crf import trigram
from samba_asr.training.objectives.speech import SpeechObjective
from samba_asr.training.optim import MovingAverage
from samba_asr.training.step import SeededBatch, Stepper
from tests.models.tiny import batch, tiny
from tests.support.work import CPU

LOSSES = {"ctc": LossConfig(), "crf": LossConfig(ctc=0.3, crf=1.0), "all": LossConfig(decoder=0.3, cr_ctc=0.2)}


def make_stepper(loss: LossConfig, ranks: Ranks, dtype: str = "float32", clip: float = 1.0) -> Stepper:
    model = tiny(decoder=1 if loss.decoder else 0, dropout=0.0, blocks=(2,), full_block=0.0, self_conditioning=(1,))
    model = replace(model, decoder=replace(model.decoder, dropout=0.0))  # which the CPU draws in its own way
    config = replace(Config(), model=model, loss=loss, train=TrainConfig(dtype=dtype))
    config = replace(config, optim=replace(config.optim, clip=clip), augment=replace(config.augment, time_width=3))
    torch.manual_seed(0)
    objective = SpeechObjective(AsrModel(model), config, trigram=trigram([[2, 2, 3], [4]], 5) if loss.crf else None)
    stepper = Stepper(objective if ranks is CPU else move(objective), config, ranks)
    stepper.average = MovingAverage(objective, 0.9)
    return stepper


@pytest.mark.parametrize("kernels", ["triton", "none"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_waits_for_nothing_but_the_late_read_of_its_losses(monkeypatch, loss, kernels):
    pytest.importorskip("triton")
    monkeypatch.setenv(KERNELS, kernels)
    stepper = make_stepper(LOSSES[loss], Ranks(DEVICE), "bfloat16")
    work = [SeededBatch(batch(), seed) for seed in (1, 2)]  # two batches: one may be bad, and is then left out alone
    with Pretend(strict=True) as device:  # .item, .tolist, bool, nonzero, .cpu() raise
        for number in (1, 2):
            pending = stepper.step(work, number=number, lr=0.01)
    assert bool(device.triton) == (kernels == "triton")
    assert device.copies == 2  # the losses of each step
    assert pending.result().units == 12


@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_the_step_of_the_cpu(monkeypatch, loss):
    monkeypatch.setenv(KERNELS, "none")
    work = [SeededBatch(batch(), seed) for seed in (1, 2)]
    here, there = make_stepper(LOSSES[loss], CPU), make_stepper(LOSSES[loss], Ranks(DEVICE))
    want = [here.step(work, number=i, lr=0.01).result() for i in (1, 2)]
    with Pretend():
        found = [there.step(work, number=i, lr=0.01).result() for i in (1, 2)]
    for a, b in zip(found, want, strict=True):
        assert a.losses == pytest.approx(b.losses, rel=1e-4)
        assert a[1:] == pytest.approx(b[1:], rel=1e-3)


def test_a_bad_batch_is_left_out_by_the_device(monkeypatch, caplog):
    monkeypatch.setenv(KERNELS, "none")
    good, bad = SeededBatch(batch(), 1), SeededBatch(batch(), 2)
    bad.batch.audio[1] = torch.nan
    alone, both, nothing = (make_stepper(LossConfig(), Ranks(DEVICE)) for _ in range(3))
    before = [p.detach().held.clone() for p in nothing.parameters]
    with Pretend(strict=True):
        pending = [
            stepper.step(work, number=1, lr=0.01)
            for stepper, work in ((alone, [good]), (both, [good, bad]), (nothing, [bad]))
        ]
    with caplog.at_level(logging.WARNING):
        results = [p.result() for p in pending]
    assert [(r.units, r.bad) for r in results] == [(6, 0), (6, 1), (0, 1)]
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["b", "b"]
    for a, b in zip(alone.parameters, both.parameters, strict=True):
        assert torch.equal(a.held, b.held)
    for a, b in zip(nothing.parameters, before, strict=True):
        assert torch.equal(a.held, b)
