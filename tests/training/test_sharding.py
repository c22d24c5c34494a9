"""Sharded models: the steps, checkpoints and validation of a model that is whole, on one process and on several."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from samba_asr.config import Config, LossConfig
from samba_asr.models.asr import AsrModel
from samba_asr.training import checkpoint, parts
from samba_asr.training.distributed import Ranks
from samba_asr.training.objectives.speech import SpeechObjective
from samba_asr.training.optim import MovingAverage
from samba_asr.training.sharding import Sharding, gathered, is_sharded, placed, placed_optimizer
from samba_asr.training.step import SeededBatch, Stepper
from tests.models.tiny import batch, tiny
from tests.support.torchrun import torchrun
from tests.training.toy import Toy, ToyObjective, recorded

CPU = Ranks(torch.device("cpu"))


@pytest.fixture(scope="module")
def group():
    """A group of one process: FSDP's own code runs, and communicates with itself."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def make(sharded: bool) -> tuple[Stepper, Sharding | None]:
    model = tiny(decoder=1, dropout=0.0, blocks=())
    config = Config(model=model, loss=LossConfig(decoder=0.3))
    config = replace(config, train=replace(config.train, dtype="float32", device="cpu"))
    config = replace(config, optim=replace(config.optim, eps=1e-3))  # else AdamW makes steps of a gradient of rounding
    torch.manual_seed(1)
    objective = SpeechObjective(AsrModel(model), config, feature_transforms=())
    sharding = Sharding(objective, CPU) if sharded else None
    stepper = Stepper(objective, config, CPU, sharded=sharded)
    stepper.average = MovingAverage(objective, 0.9)
    return stepper, sharding


def steps(stepper: Stepper, numbers) -> list:
    work = [[SeededBatch(batch(), 1), SeededBatch(batch(), n)] for n in numbers]
    return [stepper.step(both, number=n, lr=0.01).result() for n, both in zip(numbers, work, strict=True)]


def test_a_sharded_model_takes_the_steps_of_a_whole_one_and_continues_them(group):
    whole, divided = make(False)[0], make(True)[0]
    assert all(is_sharded(p) for p in divided.parameters)
    decayed = [[p.shape for p in g["params"]] for g in whole.optimizer.param_groups]
    assert [[p.shape for p in g["params"]] for g in divided.optimizer.param_groups] == decayed
    found, wanted = steps(divided, (1, 2)), steps(whole, (1, 2))
    for a, b in zip(found, wanted, strict=True):
        assert a.losses == pytest.approx(b.losses, rel=1e-5)
        assert a.norm == pytest.approx(b.norm, rel=1e-4)

    state = gathered(divided.objective.state_dict())
    for name, x in whole.objective.state_dict().items():
        torch.testing.assert_close(state[name], x, rtol=1e-4, atol=1e-5)
    saved = {"optimizer": gathered(divided.optimizer.state_dict()), "ema": gathered(divided.average.weights)}

    (wanted,) = steps(whole, (3,))
    for sharded in (False, True):  # a whole model continues where the sharded one was, and a sharded one too
        own = copy.deepcopy(saved)
        continued = make(sharded)[0]
        continued.objective.load_state_dict(placed(state, continued.objective.state_dict()))
        continued.optimizer.load_state_dict(placed_optimizer(own["optimizer"], continued.optimizer))
        continued.average.weights = placed(own["ema"], continued.average.weights)
        assert steps(continued, (3,))[0].losses == pytest.approx(wanted.losses, rel=1e-4)
        torch.testing.assert_close(
            gathered(continued.average.weights), dict(whole.average.weights), rtol=1e-3, atol=1e-4
        )


def test_all_weights_are_there_for_validation_and_divided_again_after_it(group):
    whole, (divided, sharding) = make(False)[0], make(True)
    b = batch()
    with torch.no_grad(), sharding.whole():  # before the first step, as when a resumed run validates
        found = divided.objective.net.log_probs(b.audio, b.lengths, block=-1)[0]
    with torch.no_grad():
        torch.testing.assert_close(found, whole.objective.net.log_probs(b.audio, b.lengths, block=-1)[0])
    assert all(is_sharded(p) for p in divided.objective.parameters())
    assert steps(divided, (1,))[0].losses == pytest.approx(steps(whole, (1,))[0].losses, rel=1e-5)


@pytest.mark.slow
def test_sharded_processes_continue_as_whole_ones_and_the_other_way_round(corpus, tmp_path):
    data = Path(corpus[0].audio).parent / "corpus.jsonl"
    options = ("data.batch_seconds=0.1", "train.ema=0.9", "optim.schedule=constant", "optim.weight_decay=0", "--always")
    torchrun(tmp_path / "whole", data, *options, "train.epochs=3", processes=2)
    for epochs, sharded in ((1, True), (2, False), (3, True)):
        more = f"train.epochs={epochs}", f"train.shard={str(sharded).lower()}"
        torchrun(tmp_path / "exp", data, *options, *more, processes=2)
    wanted, found = (recorded(tmp_path / name / "losses-0") for name in ("whole", "exp"))
    assert len(wanted) == 18
    assert found == pytest.approx(wanted, rel=1e-4)
    a, b = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "exp"))
    net = ToyObjective(Toy())
    b = parts.load(tmp_path / "exp", b, net, torch.optim.AdamW(net.parameters()))
    torch.testing.assert_close(a["objective"], b["objective"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(a["ema"], b["ema"], rtol=1e-3, atol=1e-4)
