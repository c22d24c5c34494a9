"""Linear maps as a GPU trains them are those of torch, under autocast, with their gradients."""

from __future__ import annotations

import pytest
import torch

from samba_asr.bench.pretend import DEVICE, Pretend, move
from samba_asr.nn.linear import FeedForward, Linear, Low
from tests.models.tiny import noise


def run(module, call, low):
    """Output and gradients of `call(x)`, and what it launched."""
    torch.manual_seed(0)
    module.train().zero_grad()
    copies = Low(module, torch.bfloat16)
    with Pretend() as device:
        x = noise(2, 5, 8).to(DEVICE).requires_grad_()
        copies.refresh()
        device.operations.clear()
        with torch.autocast("cuda", dtype=torch.bfloat16), copies.on() if low else torch.enable_grad():
            y = call(x)
        y.float().square().sum().backward()
    assert module_copies(module) == {None}
    return [v.held.float() for v in (y.detach(), x.grad, *(p.grad for p in module.parameters()))], device.total


def module_copies(module):
    return {m.copies for m in module.modules() if isinstance(m, Linear)}


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_map_is_torchs_in_fewer_operations(bias):
    torch.manual_seed(1)
    module = move(Linear(8, 6, bias=bias))
    (want, many), (found, few) = (run(module, module, low) for low in (False, True))
    assert few < 0.85 * many
    for a, b in zip(found, want, strict=True):
        assert (a - b).abs().max() <= 0.02 * b.abs().max()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_feed_forward_is_that_of_its_parts_in_fewer_operations(dropout):
    torch.manual_seed(1)
    module = move(FeedForward(8, 2, dropout))
    (want, many), (found, few) = (run(module, lambda x: module.added(x, 0.5), low) for low in (False, True))
    assert few < 0.65 * many
    for a, b in zip(found, want, strict=True):
        assert (a - b).abs().max() <= 0.03 * b.abs().max()
