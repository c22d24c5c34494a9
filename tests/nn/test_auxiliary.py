"""Auxiliary losses of layers: collected only by an objective."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from samba_asr.nn.auxiliary import AuxiliaryLoss, auxiliary_losses, collect


class Layer(nn.Module):
    def __init__(self, name="size", weight=0.5):
        super().__init__()
        self.size, self.asked = AuxiliaryLoss(name, weight), 0

    def forward(self, x):
        if self.size.wanted:
            self.asked += 1
            self.size.add(x.square().sum(1))
        return x


def test_a_layer_is_asked_within_the_block_alone():
    layer = Layer()
    layer(torch.ones(2, 3))
    assert layer.asked == 0
    losses = auxiliary_losses(nn.Sequential(layer))
    assert losses == [layer.size]
    with collect(losses):
        layer(torch.ones(2, 3))
        layer(2 * torch.ones(2, 3))
        assert [v.tolist() for v in layer.size.values] == [[3, 3], [12, 12]]
    layer(torch.ones(2, 3))
    assert layer.asked == 2
    assert layer.size.values is None


def test_nothing_is_held_after_an_error():
    layer = Layer()

    def out_of_memory():
        with collect(auxiliary_losses(layer)):
            layer(torch.ones(2, 3))
            raise torch.OutOfMemoryError("simulated")

    with pytest.raises(torch.OutOfMemoryError):
        out_of_memory()
    assert layer.size.values is None


def test_added_where_nobody_collects_it_is_dropped():
    loss = AuxiliaryLoss("size", 0.5)
    loss.add(torch.ones(2))
    assert loss.values is None


def test_it_is_in_no_file():
    assert Layer().state_dict() == {}
