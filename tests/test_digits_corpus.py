"""The corpus that travels with the code, egs/digits/data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from samba_asr.audio.read import read
from samba_asr.data.manifest import read_manifest
from tests.shared import needs_shared, shared

DATA = Path(__file__).resolve().parents[1] / "egs" / "digits" / "data"
DIGITS = {"ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"}


@pytest.fixture(scope="module")
def utterances():
    return read_manifest(DATA / "manifest.jsonl")


def test_splits_share_no_voice(utterances):
    voices = {split: {u.speaker for u in utterances if u.split == split} for split in ("train", "test")}
    assert Counter(u.split for u in utterances) == {"train": 602, "test": 112}
    assert [len(voices["train"]), len(voices["test"])] == [43, 8]
    assert not voices["train"] & voices["test"]


def test_says_digits_and_nothing_else(utterances):
    assert {word for u in utterances for word in u.text.split()} == DIGITS


def test_stays_under_five_megabytes():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 5e6


def test_a_clip_is_cut_out_whole_and_without_its_neighbours(utterances):
    """Speech inside, silence just before and after, at the start, middle and end of a file."""
    clips = [u for u in utterances if u.speaker == utterances[0].speaker]
    for u in (clips[1], clips[len(clips) // 2], clips[-1]):
        inside = read(u.audio, start=u.start, duration=u.duration)
        assert inside.rate == 16000
        assert len(inside.samples) == round(u.duration * 16000)
        assert np.sqrt(np.mean(inside.samples**2)) > 0.01
        for gap in (u.start - 0.2, u.start + u.duration + 0.05):
            assert np.abs(read(u.audio, start=gap, duration=0.15).samples).max() < 1e-3


@needs_shared("data/tts_digits")
def test_clips_lie_where_the_originals_lay(utterances):
    originals = {u.id: u for u in read_manifest(shared("data/tts_digits") / "manifest.jsonl")}
    for u in utterances[::60]:
        x = read(originals[u.id].audio).samples
        y = read(u.audio, start=u.start, duration=u.duration).samples
        n = 2 * len(x)
        assert len(y) == len(x)
        assert np.argmax(np.fft.irfft(np.fft.rfft(y, n) * np.fft.rfft(x, n).conj(), n)) == 0
