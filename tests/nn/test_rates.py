"""Layers at lower rates: groups inside blocks, the streaming contract, and no latency of their own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.models.encoder import Encoder
from samba_asr.nn.rates import Down, Up, lay_rate
from samba_asr.ops.blocks import elapse, lay_blocks
from samba_asr.streaming import Stack
from tests.contract import AtBlock, awake, verify_streaming
from tests.models.tiny import FRAME, noise, tiny


def frames(b=4, t=13):
    return noise(b, t, 8).double()


def laid(lengths, sizes, factor, t=13, gap=None):
    lengths = torch.tensor(lengths)
    blocks = lay_blocks(lengths, t, torch.tensor(sizes))
    return lay_rate(blocks if gap is None else elapse(blocks, gap), lengths, t, factor)


# --- groups


@pytest.mark.parametrize(
    ("factor", "lengths", "sizes", "groups", "numbers", "per"),
    [
        (
            2,
            [13, 13, 7, 13],
            [5, 4, 3, 1],
            [
                [0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 6, 6, 7],
                [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6],
                [0, 0, 1, 2, 2, 3, 4],
                range(13),
            ],
            [8, 7, 5, 13],
            [3, 2, 2, 1],
        ),
        (
            4,
            [13, 13],
            [512, 6],
            [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3], [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4]],
            [4, 5],
            [128, 2],
        ),
    ],
)
def test_groups_begin_with_their_block(factor, lengths, sizes, groups, numbers, per):
    level = laid(lengths, sizes, factor)
    assert level.lengths.tolist() == numbers
    assert level.blocks.sizes.tolist() == per
    for row, want in enumerate(groups):
        assert level.group[row, : lengths[row]].tolist() == list(want)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3), size=st.integers(1, 10), factor=st.sampled_from([2, 4])
)
def test_a_group_is_the_mean_of_its_frames_and_stands_for_their_time(lengths, size, factor):
    t, rows = 9, len(lengths)
    gap = torch.tensor([[0.0, 3, 0, 0, 1, 0, 7, 0, 2]]).expand(rows, -1)
    level = laid(lengths, [size] * rows, factor, t, gap)
    x = torch.randn(rows, t, 4)
    for row, n in enumerate(lengths):
        x[row, n:] = float("nan")
    down = Down(4)
    low = down(x, torch.tensor(lengths), level)  # the linear map begins as the identity
    for row, n in enumerate(lengths):
        at, g = 0, 0
        while at < n:
            end = min(at + factor, at // size * size + size, n)
            torch.testing.assert_close(low[row, g], x[row, at:end].mean(0))
            assert level.count[row, g] == end - at
            torch.testing.assert_close(level.blocks.before.span[row, g], torch.tensor((end - at) / factor))
            torch.testing.assert_close(level.blocks.before.gap[row, g], gap[row, at:end].sum() / factor)
            at, g = end, g + 1
        assert level.lengths[row] == g


def test_whole_groups_need_no_elapsed_time():
    assert laid([12, 8], [4, 4], 2, 12).blocks.before is None
    assert laid([12, 7], [4, 4], 2, 12).blocks.before.span[1, 3] == 0.5


def test_at_first_the_lower_layers_change_nothing():
    level = laid([13, 5], [5, 5], 2)
    skip = torch.randn(2, 13, 4)
    assert torch.equal(Up(4)(torch.randn(2, 8, 4), skip, level), skip)


# --- the contract


@pytest.mark.parametrize(
    ("mixer", "block", "hop"),
    [
        ("hydra", 1, None),
        ("mamba", 3, None),
        ("hydra", (2, 1, 6, 5), None),
        ("hydra", 4, 2),
        ("mamba2", (2, 5, 6, 3), (1, 3, 4, 2)),
    ],
)
def test_with_a_lower_rate_the_law_holds(mixer, block, hop):
    verify_streaming(AtBlock(Encoder(tiny(mixer, layers=3, rates=(1, 2, 1))), block, hop), frames(), seeds=[0])


@pytest.mark.parametrize(("block", "hop"), [(5, None), ((6, 5, 6, 4), (4, 4, 3, 1))])
def test_with_nested_rates_the_law_holds(block, hop):
    verify_streaming(AtBlock(Encoder(tiny(layers=4, rates=(1, 4, 2, 2))), block, hop), frames(), seeds=[0])


def test_from_waveform_to_log_probabilities_the_law_holds_with_rates():
    model = AsrModel(tiny(layers=2, rates=(1, 2)))
    verify_streaming(Stack(AtBlock(model.acoustic, (2, 1, 6, 5)), model.ctc), noise(4, 9 * FRAME, 1), seeds=[0])


# --- latency


@pytest.mark.parametrize(("block", "hop"), [(6, None), (6, 4), (5, None)])
def test_frames_come_when_they_come_without_rates(block, hop):
    slow, plain = (awake(Encoder(tiny(layers=3, rates=rates))).eval() for rates in ((1, 4, 1), ()))
    states = [encoder.init_state(2, block=block, hop=hop) for encoder in (slow, plain)]
    for n in (1, 3, 0, 5, 2, 7, 1):
        emitted = []
        for i, encoder in enumerate((slow, plain)):
            _, lengths, states[i] = encoder.step(noise(2, 7, 8), torch.tensor([n, max(0, n - 1)]), states[i])
            emitted.append(lengths.tolist())
        assert emitted[0] == emitted[1]


@pytest.mark.parametrize("block", [3, 4, 6])
def test_a_block_sees_nothing_after_it(block):
    encoder = awake(Encoder(tiny(layers=3, rates=(1, 2, 1)))).double().eval()
    x, lengths, changed = frames(1), torch.tensor([13]), frames(1)
    changed[:, 2 * block :] *= -1  # not += 1, which the norms take away
    before, after = (encoder(v, lengths, block)[0] for v in (x, changed))
    torch.testing.assert_close(before[:, : 2 * block], after[:, : 2 * block], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 2 * block :], after[:, 2 * block :])


def test_a_hop_holds_whole_groups():
    encoder = Encoder(tiny(layers=3, rates=(1, 4, 1), max_block=20))
    state = encoder.init_state(5, block=torch.tensor([16, 16, 16, 3, 16]), hop=torch.tensor([10, 2, 16, 2, 8]))
    assert state.hop.tolist() == [8, 4, 16, 3, 8]


def test_a_lower_layer_reads_fewer_frames():
    encoder, seen = awake(Encoder(tiny(layers=3, rates=(1, 2, 1), max_block=20))).eval(), []
    for layer in encoder.layers:
        step = layer.mixer.step
        layer.mixer.step = lambda x, *a, step=step: (seen.append(x.shape[1]), step(x, *a))[1]
    encoder(noise(1, 12, 8), torch.tensor([12]), -1)
    assert seen == [12, 6, 12]


# --- bad settings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rates": (1, 2)}, "model.rates has 2 factors, the encoder 3 layers"),
        ({"rates": (1, 3, 1)}, r"model.rates=\[1, 3, 1\]: 3 is no power of 2"),
        ({"rates": (1, 0, 1)}, "0 is no power of 2"),
        ({"rates": (1, 2, 1), "self_conditioning": (2,)}, r"model.self_conditioning=\[2\]: layer 2 has rate 2"),
        ({"rates": (1, 2, 1), "self_conditioning": (1,), "skip_blanks": 0.9}, "do not go together"),
    ],
)
def test_rates_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(UserError, match=said):
        Encoder(tiny(layers=3, **changes))
