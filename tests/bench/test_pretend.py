"""The GPU made of the CPU: right values, every operation counted, every wait found."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from samba_asr.bench import count as step_count
from samba_asr.bench.pretend import DEVICE, OnDevice, Pretend, move
from samba_asr.ops.device import wants_triton


def test_values_and_gradients_are_those_of_the_cpu():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), torch.randn(5, 4)
    want = net(x).square().sum()
    want.backward()
    gradient = net[0].weight.grad
    move(net)
    net.zero_grad()
    with Pretend() as device:
        y = x.to(DEVICE)
        assert y.is_cuda
        assert y.device == DEVICE
        found = net(y).square().sum()
        found.backward()
    assert device.operations["native_layer_norm"] == device.operations["native_layer_norm_backward"] == 1
    assert not device.waits
    assert found.held == want
    torch.testing.assert_close(net[0].weight.grad.held, gradient)


def test_views_launch_nothing():
    with Pretend() as device:
        x = torch.ones(2, 3, device=DEVICE)
        x.t()[0].unsqueeze(0)
        torch.empty(3, device=DEVICE)
    assert (device.total, device.launches) == (5, 1)


WAITS = {
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "bool": lambda x: bool(x.any()),
    "int": lambda x: int(x.max()),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 1],
    "cpu": lambda x: x.cpu(),
    "copy": lambda x: torch.empty(3).copy_(x),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_for_the_device_is_found(name):
    with Pretend() as device:
        x = torch.arange(3, device=DEVICE)
        WAITS[name](x)
    assert sum(device.waits.values()) == 1
    with pytest.raises(RuntimeError, match="waits for the device"), Pretend(strict=True):
        WAITS[name](OnDevice(torch.arange(3)))


def test_a_copy_that_does_not_wait_is_no_wait():
    with Pretend(strict=True) as device:
        kept = torch.arange(3, device=DEVICE).to("cpu", non_blocking=True)
    assert device.copies == 1
    assert kept.tolist() == [0, 1, 2]


def test_tensors_of_both_devices_do_not_mix():
    with Pretend(), pytest.raises(RuntimeError, match="of the CPU among those of cuda:0"):
        torch.ones(3, device=DEVICE) + torch.ones(3)


def test_autocast_computes_products_in_its_type_and_exponentials_in_float32():
    weight = nn.Parameter(OnDevice(torch.ones(2, 3)))
    with Pretend() as device, torch.autocast("cuda", dtype=torch.bfloat16):
        x = torch.ones(4, 3, device=DEVICE)
        y = F.linear(F.linear(x, weight), weight.T)
        assert y.dtype == torch.bfloat16
        assert y.exp().dtype == torch.float32
    assert device.operations["_to_copy"] == 4  # x, the weight, its transpose, y


def test_kernels_are_counted_and_not_run():
    pytest.importorskip("triton")
    from samba_asr.ops.ssd import ssd

    with Pretend() as device:
        assert wants_triton(DEVICE, torch.float32)
        x, dt = torch.ones(1, 5, 2, 4, device=DEVICE), torch.ones(1, 5, 2, device=DEVICE)
        maps = torch.ones(1, 5, 1, 3, device=DEVICE)
        y, _ = ssd(x.requires_grad_(), dt, -torch.ones(2, device=DEVICE), maps, maps)
        y.sum().backward()
    assert (device.operations["triton _forward"], device.operations["triton _backward"], device.triton) == (1, 1, 2)
    assert not y.held.any()


BEFORE = {"model/small": 3485, "model/small phones crf": 6342}  # operations at 2b248d1 (egs/bench/RESULTS.md)


@pytest.mark.slow
@pytest.mark.parametrize("files", BEFORE)
def test_a_training_step_of_small_takes_two_fifths_of_the_operations_that_it_took(files):
    pytest.importorskip("triton")
    found = step_count.main(files.split(), ["train.dtype=bfloat16"], "triton")
    assert found["operations"] <= 0.4 * BEFORE[files]
    assert not found["waits"]
