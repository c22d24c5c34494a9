"""A deeper encoder begins as the same function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samba_asr.errors import UserError
from samba_asr.models.deepen import deepen
from samba_asr.models.encoder import Encoder
from tests.models.tiny import tiny

LENGTHS = torch.tensor([9, 6])


def trained(mixer: str, **norm) -> Encoder:
    """An encoder in which nothing is zero, as if it had been trained; `norm`: weight and bias of its last norm."""
    torch.manual_seed(2)
    encoder = Encoder(tiny(mixer)).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for name, value in norm.items():
            getattr(encoder.layers[-1].norm, name).copy_(value)
    return encoder


@torch.no_grad()
def outputs(encoder: Encoder) -> torch.Tensor:
    torch.manual_seed(3)
    y, _ = encoder(torch.randn(2, 9, encoder.d_model), LENGTHS, 4)
    return torch.cat([y[0], y[1, :6]])


@pytest.mark.parametrize("mixer", ["mamba", "mamba2", "hydra"])
def test_layers_that_are_added_begin_as_nothing(mixer):
    encoder = trained(mixer, weight=torch.tensor(0.7), bias=torch.tensor(0.2))
    before, layers = outputs(encoder), len(encoder.layers)
    deepen(encoder, layers + 2)
    assert len(encoder.layers) == layers + 2
    torch.testing.assert_close(outputs(encoder), before, atol=1e-4, rtol=1e-4)


def test_where_the_last_norm_differs_by_channel_only_the_size_of_a_frame_changes():
    encoder = trained("hydra")
    before = outputs(encoder)
    deepen(encoder, len(encoder.layers) + 1)
    after = outputs(encoder)
    assert not torch.allclose(after, before)
    centred = [y - y.mean(1, keepdim=True) for y in (before, after)]
    torch.testing.assert_close(F.cosine_similarity(*centred), torch.ones(15))
    torch.testing.assert_close(after.norm(dim=1).mean(), before.norm(dim=1).mean(), rtol=0.1, atol=0)


def test_what_was_added_can_learn():
    encoder = trained("hydra")
    deepen(encoder, len(encoder.layers) + 1)
    encoder(torch.randn(2, 9, encoder.d_model), LENGTHS, 4)[0][0].square().sum().backward()
    new = encoder.layers[-1]
    for linear in (new.feed_forward_in.down, new.feed_forward_out.down, new.mixer.out_proj, new.convolution.project):
        assert linear.weight.grad.abs().sum() > 0


def test_an_encoder_with_fusion_keeps_its_depth():
    with pytest.raises(UserError, match=r"model\.fusion reads the outputs of a fixed number of layers"):
        deepen(Encoder(tiny(fusion=True)), 3)
