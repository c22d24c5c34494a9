"""Skipped blanks: which frames remain, what the layers above see of time, and the streaming contract."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.models.encoder import Encoder
from samba_asr.nn.skip import init_skip, select
from samba_asr.ops.blocks import elapse, lay_blocks
from samba_asr.streaming import Stack
from tests.contract import AtBlock, awake, verify_streaming
from tests.models.tiny import FRAME, noise, tiny

LIMIT = 0.2  # of five units: about half of the frames of an untrained model
CONFIG = tiny(layers=3, self_conditioning=(1, 2), skip_blanks=LIMIT)


def frames(b=4, t=11):
    return noise(b, t, 8).double()


def remaining(sure, gaps, size):
    """The definition: place, gap and block of every frame that remains, of one row; then what has passed since the last."""
    found, passed, before = [], 0.0, True
    for i, (blank, gap) in enumerate(zip(sure, gaps, strict=True)):
        if not (blank and before):
            found.append((i, passed + gap, i // size))
            passed = 0.0
        else:
            passed += gap + 1
        before = blank
    return found, passed


rows = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.0, 2.0])), min_size=7, max_size=7)


@given(rows=st.lists(rows, min_size=1, max_size=3), size=st.integers(1, 8), cut=st.integers(0, 7), data=st.data())
def test_a_frame_remains_where_it_or_the_one_before_may_be_no_blank(rows, size, cut, data):
    lengths = torch.tensor([data.draw(st.integers(0, 7)) for _ in rows])
    sure = torch.tensor([[blank for blank, _ in row] for row in rows])
    gaps = torch.tensor([[gap for _, gap in row] for row in rows])
    blank, cut = torch.where(sure, 0.99, 0.1), cut // size * size  # chunks of whole blocks
    state, found = init_skip(len(rows), None, None), [[] for _ in rows]
    for begin, end in ((0, cut), (cut, 7)):
        left = (lengths - begin).clamp(0, end - begin)
        blocks = elapse(lay_blocks(left, end - begin, size), gaps[:, begin:end])
        chosen = select(blank[:, begin:end], 0.9, left, blocks, state)
        state = chosen.state
        assert (chosen.blocks.ragged == chosen.lengths).all()
        order = chosen.blocks.rows.view(len(rows), -1) - torch.arange(len(rows))[:, None] * chosen.index.shape[1]
        for row, n in enumerate(chosen.lengths.tolist()):
            at = chosen.index[row, :n]
            for k in range(n):
                found[row].append(
                    (begin + int(at[k]), float(chosen.blocks.before.gap[row, k]), (begin + int(at[k])) // size)
                )
                ahead = int(order[row, k])  # reversal of time inside its block
                assert at[ahead] // size == at[k] // size
            starts = [k for k in range(n) if k == 0 or at[k] // size != at[k - 1] // size]
            assert chosen.blocks.start[row].nonzero().flatten().tolist() == starts
            bounds = [*starts, n]
            want = [k for a, b in itertools.pairwise(bounds) for k in reversed(range(a, b))]
            assert order[row, :n].tolist() == want
    for row, n in enumerate(lengths.tolist()):
        want, passed = remaining(sure[row, :n].tolist(), gaps[row, :n].tolist(), size)
        assert [(i, block) for i, _, block in found[row]] == [(i, block) for i, _, block in want]
        assert [gap for _, gap, _ in found[row]] == pytest.approx([gap for _, gap, _ in want])
        assert float(state.gap[row]) == pytest.approx(passed)


# --- the contract


@pytest.mark.parametrize(
    ("block", "hop"), [(1, None), (3, None), ((2, 1, 6, 5), None), (4, 2), ((2, 5, 6, 3), (1, 3, 6, 2))]
)
def test_with_skipped_blanks_the_law_holds(block, hop):
    verify_streaming(AtBlock(Encoder(CONFIG), block, hop), frames(), seeds=[0])


def test_from_waveform_to_log_probabilities_the_law_holds_with_skipped_blanks():
    model = AsrModel(CONFIG)
    verify_streaming(Stack(AtBlock(model.acoustic, (2, 1, 6, 5)), model.ctc), noise(4, 9 * FRAME, 1), seeds=[0])


# --- what the layers above see


def test_the_layers_above_run_on_the_frames_that_remain():
    torch.manual_seed(0)
    encoder = awake(Encoder(dataclasses.replace(CONFIG, max_block=11))).double().eval()
    x, lengths = frames(1), torch.tensor([11])
    y, _, (_, middle) = encoder.read(x, lengths, 11)
    chosen, _ = remaining((middle[0, :, 0].exp() >= LIMIT).tolist(), [0.0] * 11, 11)
    assert 2 < len(chosen) < 11
    plain = encoder.init_state(1, block=11, dtype=x.dtype).layers
    whole = lay_blocks(lengths, 11, 11)
    z = x
    for i in range(2):
        z = encoder.layers[i].step(z, lengths, plain[i], whole).x
        z, _ = encoder.conditioning[str(i + 1)](z)
    at = [i for i, _, _ in chosen]
    n = torch.tensor([len(at)])
    gap = torch.tensor([[gap for _, gap, _ in chosen]]).double()
    want = encoder.layers[2].step(z[:, at], n, plain[2], elapse(lay_blocks(n, len(at), 11), gap)).x
    torch.testing.assert_close(y[:, at], want)
    skipped = [i for i in range(11) if i not in at]
    assert not y[:, skipped].any()


def test_a_skipped_frame_is_a_blank():
    model = AsrModel(tiny(layers=2, self_conditioning=(1,), skip_blanks=0.95)).eval()
    x = noise(1, 3, 8)
    x[0, 1] = 0
    log_probs, _ = model.ctc(x, torch.tensor([3]))
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(1, 3))
    torch.testing.assert_close(log_probs[0, 1].exp(), torch.tensor([0.95, *[0.05 / 4] * 4]))
    torch.testing.assert_close(log_probs[0, ::2], model.ctc.linear(x)[0, ::2].log_softmax(-1))


@pytest.mark.parametrize("limit", [1e-9, 0.999999])
def test_where_all_or_no_frames_are_blank(limit):
    encoder = awake(Encoder(tiny(layers=2, self_conditioning=(1,), skip_blanks=limit))).double().eval()
    plain = awake(Encoder(tiny(layers=2, self_conditioning=(1,)))).double().eval()
    plain.load_state_dict(encoder.state_dict())
    x, lengths = frames(2), torch.tensor([11, 4])
    y, want = encoder(x, lengths, 3)[0], plain(x, lengths, 3)[0]
    if limit < 0.5:
        assert not y.any()
    else:
        for row, n in enumerate(lengths.tolist()):
            torch.testing.assert_close(y[row, :n], want[row, :n])


def test_training_skips_nothing():
    encoder = awake(Encoder(CONFIG)).double()
    y, lengths = encoder.train()(frames(2), torch.tensor([11, 7]), 3)
    assert y.any(-1)[0].all()
    assert lengths.tolist() == [11, 7]


# --- bad settings


def test_to_skip_blanks_a_head_must_find_them():
    with pytest.raises(
        UserError, match=r"model.skip_blanks=0.9 needs a CTC head .* model.self_conditioning, such as \[1\]"
    ):
        Encoder(tiny(skip_blanks=0.9))


@pytest.mark.parametrize("limit", [-0.1, 1.0, float("nan")])
def test_a_limit_is_a_probability(limit):
    with pytest.raises(UserError, match=r"model.skip_blanks=.*give a probability from 0"):
        Encoder(tiny(self_conditioning=(1,), skip_blanks=limit))
