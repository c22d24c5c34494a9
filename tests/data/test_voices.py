"""Voices: how they are drawn, kept and chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest

from samba_asr.data import voices
from samba_asr.errors import UserError
from tests.shared import needs_shared, shared

NAMES = ["a", "b", "c"]


def test_weights_are_gaussian_about_the_mean_of_the_styles_and_add_up_to_one():
    drawn = [voices.draw(51, 1, n) for n in range(300)]
    weights = np.stack([voice.weights for voice in drawn])
    assert np.allclose(weights.sum(1), 1, atol=1e-5)
    assert weights.mean() == pytest.approx(1 / 51, abs=1e-4)
    assert weights.std() == pytest.approx(1 / np.sqrt(50), rel=0.03)
    assert 0.4 < (weights < 0).mean() < 0.5
    warps, speeds = [voice.warp for voice in drawn], [voice.speed for voice in drawn]
    assert 0.86 <= min(warps) < 0.88
    assert 1.14 < max(warps) <= 1.16
    assert 0.85 <= min(speeds) < max(speeds) <= 1.2


def test_a_voice_is_a_function_of_seed_and_number():
    one, same, other = (voices.draw(51, seed, 7) for seed in (1, 1, 2))
    assert np.array_equal(one.weights, same.weights)
    assert (one.speed, one.warp) == (same.speed, same.warp)
    assert not np.array_equal(one.weights, other.weights)
    assert voices.draw(1, 1, 0).weights.tolist() == [1.0]


def test_voices_read_back_whatever_the_order_of_the_styles(tmp_path):
    drawn = [voices.draw(3, 1, n) for n in range(4)]
    voices.write(tmp_path / "v.npz", ["c", "a", "b"], drawn)
    back = voices.read(tmp_path / "v.npz", NAMES, seed=1)
    assert [v.weights.tolist() for v in back] == [v.weights[[1, 2, 0]].tolist() for v in drawn]
    assert [v.speed for v in back] == pytest.approx([v.speed for v in drawn])
    assert [v.warp for v in back] == pytest.approx([v.warp for v in drawn])
    with pytest.raises(UserError, match="other styles"):
        voices.read(tmp_path / "v.npz", ["a", "b", "d"], seed=1)
    (tmp_path / "rubbish").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="write one with samba-asr augment voices"):
        voices.read(tmp_path / "rubbish", NAMES, seed=1)
    nan = np.full((1, 3), np.nan)
    np.savez(tmp_path / "nan.npz", names=np.array(NAMES), weights=nan, speed=np.ones(1))
    with pytest.raises(UserError, match="not all finite"):
        voices.read(tmp_path / "nan.npz", NAMES, seed=1)


def test_the_first_voices_that_are_understood_are_chosen_and_none_is_tried_twice(tmp_path):
    tried, log = [], tmp_path / "v.jsonl"

    def errors(voice):
        tried.append(voice.speed)
        return 0.3 if len(tried) % 2 else 0.1

    chosen, count = voices.choose(NAMES, 3, 1, errors, 0.15, log)
    assert [v.speed for v in chosen] == [voices.draw(3, 1, n).speed for n in (1, 3, 5)]
    assert (count, len(tried)) == (6, 6)
    more, _ = voices.choose(NAMES, 4, 1, errors, 0.15, log)
    assert len(tried) == 8  # the first six are in the log
    assert [v.speed for v in more[:3]] == [v.speed for v in chosen]
    every, count = voices.choose(NAMES, 5, 1, errors, 0.5, log)
    assert (len(every), count, len(tried)) == (5, 5, 8)
    with pytest.raises(UserError, match="another seed"):
        voices.choose(NAMES, 3, 2, errors, 0.15, log)
    assert len(log.read_text().splitlines()) == 9


def test_a_log_that_was_cut_short_is_named(tmp_path):
    (tmp_path / "v.jsonl").write_text(json.dumps({"seed": 1, "styles": NAMES}) + '\n{"voice"')
    with pytest.raises(UserError, match="not a log of voices"):
        voices.choose(NAMES, 1, 1, lambda voice: 0.0, 0.15, tmp_path / "v.jsonl")


def test_where_nobody_is_understood_it_ends(tmp_path):
    with pytest.raises(UserError, match=r"50 of 50 voices have more errors than 0\.15"):
        voices.choose(NAMES, 3, 1, lambda voice: 1.0, 0.15, tmp_path / "v.jsonl")


@needs_shared("data/kokoro_voices.npz")
def test_127_voices_that_were_filtered_by_whisper_are_read():
    names = sorted(np.load(shared("tools/tts/voices.npz")).files)
    found = voices.read(shared("data/kokoro_voices.npz"), names, seed=1)
    assert len(found) == 127
    assert len({voice.warp for voice in found}) == 127  # that file has none: they are drawn
