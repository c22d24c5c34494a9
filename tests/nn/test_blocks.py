"""Blocks: time reversed inside each of them, by row; and bidirectional layers keep the contract at every block size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.config import Mamba2Config, mixer_config
from samba_asr.nn.blocks import BlockBidirectional, CausalMixer, Unidirectional
from samba_asr.nn.mixers import Mamba2, build_mixer
from samba_asr.ops.blocks import flip, lay_blocks
from samba_asr.ops.device import KERNELS
from samba_asr.streaming import Step, mask
from tests.contract import InBlocks, verify_streaming

TINY = Mamba2Config(d_state=3, headdim=4, d_conv=3)
rows = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 11)), min_size=1, max_size=4)  # (length, block size)


def lay(rows, t=9):
    lengths, sizes = torch.tensor([n for n, _ in rows]), torch.tensor([size for _, size in rows])
    return lengths, sizes, lay_blocks(lengths, t, sizes)


def reversed_in_blocks(steps, length, size):
    """The definition: block by block, the steps behind `length` as they are."""
    out = []
    for begin in range(0, length, size):
        out += reversed(steps[begin : min(begin + size, length)])
    return out + steps[length:]


@given(rows=rows)
def test_time_is_reversed_inside_each_block(rows):
    _, _, blocks = lay(rows)
    got = flip(torch.arange(9.0).view(1, 9, 1).expand(len(rows), -1, -1), blocks)
    for row, (length, size) in zip(got, rows, strict=True):
        assert row[:, 0].tolist() == reversed_in_blocks(list(range(9)), length, size)


@given(rows=rows)
def test_a_block_starts_where_it_started_before_it_was_reversed(rows):
    lengths, sizes, blocks = lay(rows)
    if blocks.start is None:
        assert all(size >= 9 for size in sizes)  # then every row is one block
        return
    for start, length, size in zip(blocks.start, lengths.tolist(), sizes.tolist(), strict=True):
        assert start.nonzero().flatten().tolist() == list(range(0, length, size))


@given(rows=rows)
def test_flip_is_its_own_inverse(rows):
    x = torch.randn(len(rows), 9, 2, 3)
    _, _, blocks = lay(rows)
    assert torch.equal(flip(flip(x, blocks), blocks), x)


def test_the_gradient_of_flip_is_that_of_indexing():
    _, _, blocks = lay([(9, 4), (5, 2), (0, 3)])
    x = torch.randn(3, 9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: flip(x, blocks), [x])


def test_one_size_for_all_rows_may_be_an_int():
    lengths = torch.tensor([7, 3])
    for a, b in zip(lay_blocks(lengths, 7, 3), lay_blocks(lengths, 7, torch.tensor([3, 3])), strict=True):
        assert a is b or torch.equal(a, b)


@given(rows=rows)
def test_rows_are_ragged_unless_all_are_full(rows):
    lengths, _, blocks = lay(rows)
    assert (blocks.ragged is None) == all(n >= 9 for n, _ in rows)
    if blocks.ragged is not None:
        assert torch.equal(blocks.ragged, lengths)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100, (1, 2, 6, 3)])
@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_two_directions_keep_the_law(name, size):
    module = build_mixer(4, mixer_config(name, d_state=3, d_conv=3, **({"headdim": 4} if name == "mamba2" else {})))
    verify_streaming(InBlocks(module, size), torch.randn(4, 13, 4))


def test_a_causal_mixer_does_not_see_blocks():
    module = Unidirectional(Mamba2(4, TINY)).double()
    verify_streaming(InBlocks(module, 3), torch.randn(4, 13, 4))
    x, lengths = torch.randn(2, 9, 4, dtype=torch.float64), torch.tensor([9, 4])
    y, _ = module(x, lengths, lay_blocks(lengths, 9, 2))
    z, _ = module.mixer(x, lengths)
    assert torch.equal(y, z)


class Sum(CausalMixer):
    """A causal mixer with `step` alone: the sum of its inputs since the last reset."""

    def init_state(self, batch, *, device=None, dtype=None):
        return torch.zeros(batch, 4, device=device, dtype=dtype)

    def step(self, x, lengths, state, reset=None, elapsed=None):
        x, ys = mask(x, lengths), [x[:, :0]]
        for i in range(x.shape[1]):
            state = x[:, i] + (state if reset is None else state.masked_fill(reset[:, i, None], 0))
            ys.append(state[:, None])
        return Step(torch.cat(ys, 1), lengths, state)


@pytest.mark.parametrize("kernels", ["none", "triton"])
def test_step_is_all_that_a_causal_mixer_must_define(kernels, monkeypatch):
    monkeypatch.setenv(KERNELS, kernels)
    x, lengths = torch.arange(1.0, 8).view(1, 7, 1).expand(1, 7, 4), torch.tensor([7])
    y, _ = BlockBidirectional(Sum(), Sum())(x, lengths, lay_blocks(lengths, 7, 3))
    forward, backward = torch.tensor([1, 3, 6, 10, 15, 21, 28]), torch.tensor([6, 5, 3, 15, 11, 6, 7])
    assert torch.equal(y[0, :, 0], (forward + backward).float())


def test_backward_reads_its_block_and_nothing_else():
    """The backward mixer's output at a block is that of the block's reversed steps, alone."""
    module = BlockBidirectional(Mamba2(4, TINY), Mamba2(4, TINY)).double().eval()
    x, lengths = torch.randn(1, 10, 4, dtype=torch.float64), torch.tensor([10])
    y, _ = module(x, lengths, lay_blocks(lengths, 10, 4))
    forward, _ = module.forward_mixer(x, lengths)
    back = [module.backward_mixer(x[:, i : i + 4].flip(1), torch.tensor([len(x[0, i : i + 4])]))[0] for i in (0, 4, 8)]
    torch.testing.assert_close(y, forward + torch.cat([piece.flip(1) for piece in back], dim=1))
