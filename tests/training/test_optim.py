from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from samba_asr.config import OptimConfig
from samba_asr.errors import UserError
from samba_asr.training.optim import MovingAverage, learning_rate, make_optimizer, set_learning_rate


def test_every_schedule_warms_up_in_a_line():
    for schedule in ("cosine", "noam", "constant"):
        config = OptimConfig(lr=2.0, warmup=100, schedule=schedule)
        assert learning_rate(config, 1, 0.0) == pytest.approx(0.02)
        assert learning_rate(config, 50, 0.0) == pytest.approx(1.0)
        assert learning_rate(config, 100, 0.0) == pytest.approx(2.0)


def test_cosine_follows_progress_to_its_end():
    config = OptimConfig(lr=2.0, warmup=10, schedule="cosine", final_lr=0.1)
    assert learning_rate(config, 1000, 0.5) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert learning_rate(config, 1000, 0.25) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))
    assert learning_rate(config, 1000, 1.0) == pytest.approx(0.2)
    assert learning_rate(config, 1000, 7.0) == pytest.approx(0.2)


def test_noam_falls_with_the_root_of_the_step():
    config = OptimConfig(lr=2.0, warmup=100, schedule="noam")
    assert learning_rate(config, 400, 0.9) == pytest.approx(1.0)


def test_constant_stays():
    assert learning_rate(OptimConfig(lr=2.0, warmup=0, schedule="constant"), 10**6, 1.0) == 2.0


def test_an_unknown_schedule_names_the_known_ones():
    with pytest.raises(UserError, match="'linear': choose one of cosine, noam, constant"):
        learning_rate(OptimConfig(schedule="linear"), 1, 0.0)


def test_weight_decay_is_for_matrices_alone():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model.A_log = nn.Parameter(torch.zeros(3, 4))
    model.A_log._no_weight_decay = True
    model.frozen = nn.Parameter(torch.zeros(3, 4), requires_grad=False)
    decayed, others = make_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[2].weight)}
    assert {id(p) for p in others["params"]} == {
        id(p) for p in (model[0].bias, model[1].weight, model[1].bias, model[2].bias, model.A_log)
    }
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def net_with_an_encoder():
    model = nn.Module()
    model.net = nn.Module()
    model.net.acoustic, model.net.ctc = nn.Linear(3, 4), nn.Linear(4, 2)
    return model


def test_the_encoder_can_have_a_learning_rate_of_its_own():
    model = net_with_an_encoder()
    optimizer = make_optimizer(model, OptimConfig(lr=2e-3, encoder_lr=5e-4, weight_decay=0.1))
    set_learning_rate(optimizer, 1e-3)  # half of the peak
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    encoder, head = model.net.acoustic, model.net.ctc
    assert found == {
        id(encoder.weight): (2.5e-4, 0.1),
        id(encoder.bias): (2.5e-4, 0.0),
        id(head.weight): (1e-3, 0.1),
        id(head.bias): (1e-3, 0.0),
    }
    for without in (0.0, 2e-3):  # the groups of older checkpoints
        groups = make_optimizer(model, OptimConfig(lr=2e-3, encoder_lr=without)).param_groups
        assert [len(g["params"]) for g in groups] == [2, 2]
    del (old := make_optimizer(model, OptimConfig())).param_groups[0]["share"]
    set_learning_rate(old, 0.5)
    assert [g["lr"] for g in old.param_groups] == [0.5, 0.5]


def test_a_learning_rate_of_the_encoder_wants_an_encoder():
    with pytest.raises(UserError, match=r"optim\.encoder_lr=0\.1: this model is no recognizer"):
        make_optimizer(nn.Linear(2, 2), OptimConfig(encoder_lr=0.1))
    with pytest.raises(UserError, match=r"optim\.encoder_lr=-1.0"):
        make_optimizer(net_with_an_encoder(), OptimConfig(encoder_lr=-1.0))


def test_the_moving_average_is_the_recurrence():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = MovingAverage(model, 0.5)
    expected = 0.0
    for step in range(1, 30):
        model.weight.data.fill_(float(step))
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.weights["weight"]) == pytest.approx(expected)


def test_swapping_twice_changes_nothing():
    model = nn.Linear(2, 2)
    average = MovingAverage(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    weight, mean = model.weight.clone(), average.weights["weight"].clone()
    average.swap(model)
    assert torch.equal(model.weight, mean)
    average.swap(model)
    assert torch.equal(model.weight, weight)
    assert torch.equal(average.weights["weight"], mean)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_outside_0_to_1_is_refused(decay):
    with pytest.raises(UserError, match=r"train\.ema"):
        MovingAverage(nn.Linear(1, 1), decay)
