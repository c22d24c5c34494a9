"""Front ends by name: each keeps the contract and adds no latency."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from samba_asr.errors import UserError
from samba_asr.models.acoustic import AcousticModel
from samba_asr.nn.front import build_front, fronts
from tests.contract import AtBlock, verify_streaming
from tests.models.tiny import noise, tiny

every_front = pytest.mark.parametrize("name", tuple(fronts))


def config(name, **values):
    """The smallest model with 16 mels: 4 bands after subsampling."""
    small = tiny("mamba2", front=name, **values)
    return dataclasses.replace(small, features=dataclasses.replace(small.features, mels=16))


@every_front
def test_every_front_end_keeps_the_law(name):
    front = build_front(config(name))
    mels = config(name).features.mels
    x = torch.randn(4, 5 * front.stride, mels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    verify_streaming(front, x, seeds=[0])


@every_front
@pytest.mark.parametrize("factor", [2, 8])
def test_every_front_end_has_a_frame_for_so_many_feature_frames(name, factor):
    front = build_front(config(name, subsampling=factor))
    assert front.stride == factor
    state = front.init_state(2)
    x, lengths, _ = front.step(torch.randn(2, factor, config(name).features.mels), torch.tensor([factor, 0]), state)
    assert lengths.tolist() == [1, 0]  # at once
    assert x.shape == (2, 1, config(name).d_model)


def test_the_acoustic_model_keeps_the_law_with_chimera():
    model = AcousticModel(config("chimera"))
    x = noise(4, 5 * model.stride, 1)
    verify_streaming(AtBlock(model, (2, 1, 3, 5)), x, tolerance=1e-7, seeds=[0])


def test_an_unknown_front_end_is_named_with_those_there_are():
    with pytest.raises(
        UserError, match=r"unknown front end 'chimaera' \(did you mean 'chimera'\?\); there are: chimera, conv"
    ):
        AcousticModel(config("chimaera"))
