"""Augmentation by missing audio: whole frames disappear, what remains is unchanged, and the gaps say how much is missing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.audio.gaps import PACKET, QUIET_DB, SHARE, cut_gaps

STRIDE, RATE = 640, 16000


def cut(audio, lengths, probability=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return cut_gaps(audio, torch.tensor(lengths), g, probability=probability, stride=STRIDE, rate=RATE)


def ramp(b, s):
    """Audio in which every sample says where it stood."""
    return torch.arange(s, dtype=torch.float32).expand(b, -1) / s


@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(0, 8 * RATE), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_gaps_are_the_frames_that_are_missing(lengths, seed):
    s = max(*lengths, STRIDE)
    audio, new, gap = cut(ramp(len(lengths), s), lengths, seed=seed)
    assert audio.shape == (len(lengths), s)
    for row, n in enumerate(lengths):
        left = int(new[row])
        assert n * (1 - SHARE) - STRIDE <= left <= n
        assert not audio[row, left:].any()
        place = (audio[row, :left] * s).round()
        frames = place[: left // STRIDE * STRIDE].view(-1, STRIDE)
        assert torch.equal(frames, frames[:, :1] + torch.arange(STRIDE))
        jumps = frames[:, 0] / STRIDE - torch.arange(len(frames))  # frames missing so far
        torch.testing.assert_close(gap[row, : len(frames)].cumsum(0), jumps)
        assert not gap[row, len(frames) :].any()
        if left % STRIDE:
            assert int(place[-1]) == n - 1


def test_with_probability_0_nothing_is_missing():
    audio, new, gap = cut(ramp(2, RATE), [RATE, RATE // 2], probability=0.0)
    assert torch.equal(audio[0], ramp(1, RATE)[0])
    assert new.tolist() == [RATE, RATE // 2]
    assert not gap.any()


def test_the_same_generator_cuts_the_same():
    first, second, other = (cut(ramp(3, 8 * RATE), [8 * RATE] * 3, seed=seed)[2] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_long_parts_lie_where_it_is_quiet():
    """Speech of 2 s, a pause of 3.2 s, speech of 2 s: a word can be missing only as a lost packet."""
    audio = torch.full((1, round(7.2 * RATE)), 0.1)
    audio[:, 2 * RATE : round(5.2 * RATE)] *= 10 ** (-2 * QUIET_DB / 20)
    long = 0
    for seed in range(60):
        _, _, gap = cut(audio, [audio.shape[1]], seed=seed)
        at = torch.arange(gap.shape[1]) + gap[0].cumsum(0)  # place of each remaining frame
        for i in gap[0].nonzero().flatten().tolist():
            first, last = at[i] - gap[0, i], at[i] - 1
            if gap[0, i] > 3 * PACKET * RATE / STRIDE:  # not several packets in a row
                long += 1
                assert last >= 2 * RATE / STRIDE
                assert first <= 5.2 * RATE / STRIDE
    assert long > 10


@pytest.mark.parametrize("lengths", [[0], [STRIDE - 1], [0, 5 * STRIDE + 3]])
def test_utterances_of_no_frame_or_few_stay_as_they_are(lengths):
    s = max(*lengths, STRIDE)
    audio, new, gap = cut(ramp(len(lengths), s), lengths)
    assert new.tolist() == lengths
    assert not gap.any()
    for row, n in enumerate(lengths):
        assert torch.equal(audio[row, :n], ramp(1, s)[0, :n])
