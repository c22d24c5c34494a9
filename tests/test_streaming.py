"""Tools of the streaming contract: ragged time, trees of rows, and modules one after another."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.config import Mamba2Config
from samba_asr.nn.mixers import Mamba2
from samba_asr.streaming import (
    Stack,
    concat,
    leaves,
    map_state,
    mask,
    pad_time,
    stack_rows,
    tail,
    take_rows,
    take_time,
    valid_mask,
)
from tests.contract import verify_streaming
from tests.toys import CausalConv, LookAhead

ragged = st.lists(st.lists(st.integers(1, 99), max_size=5), min_size=3, max_size=3)  # three rows
widths = st.integers(0, 3)
NAN = float("nan")


def padded(rows, spare=0):
    """Rows of numbers -> (b, t, 1) with NaN behind them, (b,)."""
    t = max(map(len, rows)) + spare
    x = torch.tensor([row + [NAN] * (t - len(row)) for row in rows], dtype=torch.float32)
    return x.view(len(rows), t, 1), torch.tensor([len(row) for row in rows])


def unpadded(y, lengths):
    return [row[:n, 0].tolist() for row, n in zip(y, lengths.tolist(), strict=True)]


# --- ragged time


@given(first=ragged, second=ragged, spare=widths)
def test_concat_joins_rows_as_lists_are_joined(first, second, spare):
    y, lengths = concat(padded(first, spare), padded(second))
    assert unpadded(y, lengths) == [a + b for a, b in zip(first, second, strict=True)]


def test_concat_takes_none_for_an_empty_piece():
    piece = padded([[1.0], [], [2.0, 3.0]])
    assert concat(None, piece) is piece
    assert concat(piece, None) is piece
    assert concat(None, None) is None


@given(rows=ragged, width=widths, spare=widths)
def test_tail_is_what_the_next_chunk_must_remember(rows, width, spare):
    x, lengths = padded(rows, spare)
    context = torch.arange(-width, 0.0).view(1, width, 1).expand(3, -1, -1)
    got = tail(torch.cat([context, x], dim=1), lengths, width)
    before = list(map(float, range(-width, 0)))
    assert got[..., 0].tolist() == [(before + row)[len(row) :] for row in rows]


@given(rows=ragged, spare=widths)
def test_mask_hides_padding_and_passes_it_no_gradient(rows, spare):
    x, lengths = padded(rows, spare)
    x.requires_grad_()
    valid = valid_mask(lengths, x.shape[1])
    assert valid.sum(1).tolist() == lengths.tolist()
    y = mask(x, lengths)
    assert unpadded(y, lengths) == rows
    assert not y[~valid].any()
    y.sum().backward()
    assert torch.equal(x.grad[..., 0], valid.float())


def test_take_time_picks_steps_of_each_row():
    x = torch.arange(12.0).view(2, 3, 2)
    assert take_time(x, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_pad_time_adds_zero_steps():
    assert pad_time(torch.ones(1, 2, 1), 1, 2).flatten().tolist() == [0, 1, 1, 0, 0]
    assert pad_time(torch.ones(1, 2, 1, 1), 1, 0).shape == (1, 3, 1, 1)


# --- trees of rows


class Pair(NamedTuple):
    a: torch.Tensor
    b: tuple


def tree(rows):
    values = torch.tensor(rows)
    return (), Pair(values, (values[:, None] * 10, (values + 0.5,)))


@given(rows=st.lists(st.integers(0, 99), min_size=1, max_size=5), data=st.data())
def test_rows_are_taken_and_stacked_in_every_leaf(rows, data):
    picks = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6))  # rows may repeat: beams
    taken = take_rows(tree(rows), picks)
    stacked = stack_rows([take_rows(tree(rows), [i]) for i in picks])
    for got in (taken, stacked, take_rows(tree(rows), torch.tensor(picks))):
        want = tree([rows[i] for i in picks])
        assert all(torch.equal(p, q) for p, q in zip(leaves(got), leaves(want), strict=True))
    assert isinstance(taken[1], Pair)
    assert isinstance(taken[0], tuple)


def test_map_state_demands_trees_of_one_shape():
    with pytest.raises(ValueError, match="zip"):
        map_state(torch.add, (torch.ones(1), torch.ones(1)), (torch.ones(1),))


# --- modules one after another


@pytest.mark.parametrize(
    "layers",
    [
        [CausalConv(3, 4, 5, 2), CausalConv(4, 3, 3, 2)],
        [LookAhead(3, 2), CausalConv(3, 4, 3), LookAhead(4, 1)],  # finish in front of state, and in front of finish
        [CausalConv(3, 4, 3, 2), LookAhead(4, 1), Mamba2(4, Mamba2Config(d_state=2, headdim=2))],
        [Stack(LookAhead(3, 1), CausalConv(3, 3)), LookAhead(3, 3)],
    ],
    ids=["strides", "look-ahead before a convolution", "look-ahead before a recurrence", "a stack in a stack"],
)
def test_a_stack_keeps_the_law(layers):
    stack = Stack(*layers)
    verify_streaming(stack, torch.randn(4, 12, 3))


def test_a_stacks_stride_is_the_product():
    assert Stack(CausalConv(1, 1, 3, 2), CausalConv(1, 1, 4, 3)).stride == 6
