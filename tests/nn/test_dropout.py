"""Dropout by bytes: the rate and the scale are right, evaluation is the identity, the seed decides."""

from __future__ import annotations

import pytest
import torch

from samba_asr.errors import UserError
from samba_asr.nn.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_scale(p):
    torch.manual_seed(0)
    y = Dropout(p)(torch.ones(100_000))
    rounded = round(p * 256) / 256
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - rounded) < 4 * (rounded * (1 - rounded) / 100_000) ** 0.5  # four standard deviations
    torch.testing.assert_close(y[y != 0], torch.full((), 1 / (1 - rounded)).expand(int((y != 0).sum())))


def test_what_is_dropped_does_not_repeat_along_any_axis():
    torch.manual_seed(0)
    kept = Dropout(0.5)(torch.ones(64, 64, 8)) != 0
    for axis in range(3):
        agree = (kept.narrow(axis, 1, 7) == kept.narrow(axis, 0, 7)).double().mean().item()
        assert abs(agree - 0.5) < 0.02


def test_evaluation_is_the_identity():
    x = torch.randn(3, 4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_the_seed_decides():
    def draw(seed):
        torch.manual_seed(seed)
        return Dropout(0.5)(torch.ones(1000))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_the_gradient_is_the_mask():
    x = torch.ones(101, requires_grad=True)  # no multiple of eight
    y = Dropout(0.3)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_stays(dtype):
    assert Dropout(0.3)(torch.ones(5, 3, dtype=dtype)).dtype == dtype


def test_an_empty_tensor_stays_empty():
    assert Dropout(0.3)(torch.ones(2, 0, 3)).shape == (2, 0, 3)


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_wrong_rate_is_named(p):
    with pytest.raises(UserError, match=f"dropout {p} must be in"):
        Dropout(p)


def test_dropout_can_be_off_for_a_while():
    model = torch.nn.Sequential(Dropout(0.5), Dropout(0.25))
    x = torch.ones(100)
    with Dropout.off(model):
        assert torch.equal(model(x), x)
    with Dropout.off(model, when=False):
        assert not torch.equal(model(x), x)
    assert [m.p for m in model] == [0.5, 0.25]
