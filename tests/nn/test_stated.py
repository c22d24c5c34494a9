"""Encoder layers that state their own gradients, as a GPU trains them, are the layers of `EncoderLayer.step`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from samba_asr.bench.pretend import DEVICE, Pretend, move
from samba_asr.config import HydraConfig
from samba_asr.models.encoder import Encoder, EncoderLayer
from samba_asr.nn.dropout import Dropout
from samba_asr.nn.linear import Low
from samba_asr.ops.device import KERNELS
from tests.models.tiny import tiny
from tests.ops.checks import assert_close

LENGTHS = torch.tensor([7, 3, 0])
WHERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make(**changes) -> Encoder:
    """An encoder with odd sizes, all of whose parameters matter: some would begin at zero."""
    mixer = HydraConfig(d_state=5, headdim=4, d_conv=3)  # i = 24: 6 heads
    config = replace(tiny(layers=2, dropout=0.0, **changes), mixer=mixer, d_model=12)
    torch.manual_seed(0)
    encoder = Encoder(config).train()
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return encoder


def run(encoder, x, lengths, block, stated=False):
    """Valid outputs, log-probabilities inside, and all gradients."""
    encoder.to(WHERE).zero_grad()
    x = x.to(WHERE, next(encoder.parameters()).dtype).requires_grad_()
    copies = Low(encoder, x.dtype)
    copies.refresh()
    torch.manual_seed(1)
    with copies.on() if stated else torch.enable_grad():
        y, _, log_probs = encoder.read(x, lengths.to(WHERE), block, known=lengths)
    valid = torch.arange(x.shape[1]) < lengths[:, None]
    outputs = [v[valid] for v in (y.cpu(), *(v.cpu() for v in log_probs))]
    sum((v * torch.linspace(-1, 1, v.numel(), dtype=v.dtype).view(v.shape)).sum() for v in outputs).backward()
    found = {f"output {i}": v.detach() for i, v in enumerate(outputs)}
    gradients = {"x": x.grad, **{n: p.grad for n, p in encoder.named_parameters()}}
    return {**found, **{n: g.cpu() for n, g in gradients.items()}}


@pytest.fixture
def interpreted(monkeypatch):
    """Triton's kernels, on the CPU where there is no GPU, and a note of how often a layer took them."""
    pytest.importorskip("triton")
    monkeypatch.setenv(KERNELS, "triton")
    taken, read = [], EncoderLayer.read
    monkeypatch.setattr(EncoderLayer, "read", lambda layer, *args: taken.append(layer) or read(layer, *args))
    return taken


@pytest.mark.parametrize("block", [3, 100])
@pytest.mark.parametrize("lengths", [LENGTHS, torch.tensor([5, 5])], ids=["ragged", "full"])
def test_values_and_gradients_are_those_of_the_steps(interpreted, monkeypatch, poisoned_empty, block, lengths):
    encoder = make(self_conditioning=(1,))
    x = torch.randn(len(lengths), int(lengths.max()), 12, dtype=torch.float64)
    x[torch.arange(x.shape[1]) >= lengths[:, None]] = torch.nan
    found = run(encoder, x.clone(), lengths, block, stated=True)
    assert len(interpreted) == 2
    monkeypatch.setenv(KERNELS, "none")
    assert_close(found, run(encoder.double(), x, lengths, block), 2e-4)


def test_dropout_drops_the_same(interpreted, monkeypatch):
    monkeypatch.setattr(
        Dropout, "forward", lambda self, x: torch.native_dropout(x, self.p, True)[0] if self.p else x
    )  # as on a GPU
    encoder = make()
    for m in encoder.modules():
        if isinstance(m, Dropout):
            m.p = 0.4
    x = torch.randn(1, 6, 12)
    found = run(encoder, x.clone(), LENGTHS[:1] - 1, 4, stated=True)
    monkeypatch.setenv(KERNELS, "none")
    assert_close(found, run(encoder, x, LENGTHS[:1] - 1, 4), 2e-4)


@pytest.mark.parametrize("why", ["kernels", "eval", "copies"])
def test_other_steps_go_the_plain_way(interpreted, monkeypatch, why):
    encoder = make()
    if why == "kernels":
        monkeypatch.setenv(KERNELS, "none")
    if why == "eval":
        encoder.eval()
    run(encoder, torch.randn(1, 7, 12), LENGTHS[:1], 3, stated=why != "copies")
    assert not interpreted


def test_a_layer_takes_less_than_two_thirds_of_the_operations(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv(KERNELS, "triton")
    encoder = make()
    move(encoder)
    copies, totals = Low(encoder, torch.bfloat16), []
    for plain in (True, False):
        with monkeypatch.context() as patch:
            if plain:
                patch.setattr(EncoderLayer, "stated", lambda *_: False)
            with Pretend() as device:
                x = torch.randn(2, 7, 12).to(DEVICE).requires_grad_()
                copies.refresh()
                device.operations.clear()
                with torch.autocast("cuda", dtype=torch.bfloat16), copies.on():
                    y = encoder.read(x, LENGTHS[:2].to(DEVICE), 3, known=LENGTHS[:2])[0]
                gradients = torch.autograd.grad(y.sum(), [x, *encoder.parameters()])
        totals.append(device.total)
        assert all(g.is_contiguous() for g in gradients)
    assert totals[1] < 0.66 * totals[0], totals
