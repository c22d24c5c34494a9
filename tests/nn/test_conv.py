"""Convolutions: each equals torch's own without blocks and padding, and keeps the contract."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samba_asr.errors import UserError
from samba_asr.nn.conv import BlockConv1d, CausalConv2d, ConvolutionModule, Project, subsampling
from samba_asr.ops.blocks import lay_blocks
from samba_asr.streaming import Stack
from tests.contract import InBlocks, verify_streaming

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 5, 100, (1, 2, 6, 3)])


def x(b=4, t=13, d=4, dtype=torch.float32):
    return torch.randn(b, t, d, generator=torch.Generator().manual_seed(0)).to(dtype)


def whole(module, x, size):
    lengths = torch.full((x.shape[0],), x.shape[1])
    return module(x, lengths, lay_blocks(lengths, x.shape[1], size))[0]


@SIZES
@pytest.mark.parametrize(("past", "future"), [(2, 2), (3, 1), (1, 3), (0, 2), (2, 0)])
def test_block_convolution_keeps_the_law(past, future, size):
    verify_streaming(InBlocks(BlockConv1d(4, past, future), size), x())


def test_with_one_block_it_is_a_centred_convolution():
    module = BlockConv1d(4, 2, 2)
    want = F.conv1d(x().mT, module.conv1d.weight, module.conv1d.bias, padding=2, groups=4).mT
    torch.testing.assert_close(whole(module, x(), 13), want)


@pytest.mark.parametrize("size", [1, 3, 4, 12])
def test_ahead_of_a_block_there_are_zeros_and_behind_it_the_past(size):
    module, v = BlockConv1d(4, 2, 3).double(), x(dtype=torch.float64)
    got = whole(module, v, size)
    for begin in range(0, 13, size):
        end = min(begin + size, 13)
        seen = F.pad(v[:, :end], (0, 0, 2, 3))  # the past, the block, and nothing after it
        want = F.conv1d(seen.mT, module.conv1d.weight, module.conv1d.bias, groups=4).mT[:, begin:end]
        torch.testing.assert_close(got[:, begin:end], want)


@SIZES
def test_convolution_module_keeps_the_law(size):
    verify_streaming(InBlocks(ConvolutionModule(4, 5, dropout=0.1), size), x())


def test_the_convolution_module_begins_as_nothing():
    assert not whole(ConvolutionModule(4, 5, dropout=0.0), x(), 5).any()


def test_an_even_kernel_is_refused():
    with pytest.raises(UserError, match="conv_kernel 30 must be odd"):
        ConvolutionModule(4, 30, 0.0)


def test_strided_convolution_keeps_the_law():
    verify_streaming(CausalConv2d(4, 2, 3), x(t=12, d=8))


def test_strided_convolution_is_torchs_with_one_step_of_past():
    module = CausalConv2d(4, 1, 3)
    y, lengths = module(x(t=8), torch.tensor([8, 6, 2, 0]))
    assert lengths.tolist() == [4, 3, 1, 0]
    want = F.relu(module.conv(F.pad(x(t=8), (0, 0, 1, 0))[:, None]))  # (b, c, t / 2, m / 2)
    torch.testing.assert_close(y[0], want[0].permute(1, 2, 0).flatten(1))


@pytest.mark.parametrize("mels", [2, 4])
def test_strided_convolution_in_bfloat16_writes_every_result(mels):
    module = CausalConv2d(mels, 1, 16)
    given = x(t=98, d=mels)
    want, _ = module(given, torch.full((len(given),), 98))
    torch.full((2**20,), torch.nan)  # freed at once, so that what is not written is likely to be NaN
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = module(given, torch.full((len(given),), 98))
    torch.testing.assert_close(found.float(), want, rtol=0.05, atol=0.05)
    for gradient in torch.autograd.grad(found.float().sum(), list(module.parameters())):
        assert gradient.isfinite().all()


def test_odd_mels_are_refused():
    with pytest.raises(UserError, match="5 mels must be even"):
        CausalConv2d(5, 1, 1)
    with pytest.raises(UserError, match="6 mels must be a multiple of 4"):
        subsampling(6, 2, 3)
    with pytest.raises(UserError, match="subsampling=6: give a power of 2"):
        subsampling(12, 2, 3, factor=6)


def test_projection_keeps_the_law():
    verify_streaming(Project(4, 3, dropout=0.5), x())


@pytest.mark.parametrize(("factor", "frames"), [(2, [12, 11, 1, 2]), (4, [6, 5, 0, 1]), (8, [3, 2, 0, 0])])
def test_subsampling_keeps_the_law_and_divides_time(factor, frames):
    module = Stack(*subsampling(8, 3, 5, factor=factor))
    assert module.stride == factor
    verify_streaming(module, x(t=24, d=8))
    assert module(x(t=24, d=8), torch.tensor([24, 23, 3, 4]))[1].tolist() == frames
