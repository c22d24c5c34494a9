"""Confidences that mean what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from samba_asr.decoding.confidence import FILE, Calibration, Evidence, agreement, expected_error, raw, reliability
from samba_asr.errors import UserError

TRUE = Calibration(-1.0, 0.7, 0.4)
TRUE_BUT_NAN = '{"bias": NaN, "by_prob": 0.7, "by_agreed": 0.4}'


def words(n: int, seed: int = 0) -> tuple[list[Evidence], list[bool]]:
    """Words that are right as often as TRUE says."""
    rng = np.random.default_rng(seed)
    evidence = [
        Evidence(math.log(p), a) for p, a in zip(rng.uniform(0.01, 0.99, n), rng.uniform(0.01, 0.99, n), strict=True)
    ]
    return evidence, [rng.random() < TRUE(e) for e in evidence]


def test_what_made_the_words_right_is_found_again():
    evidence, right = words(20_000)
    found = Calibration.fit(evidence, right)
    assert found == pytest.approx(TRUE, abs=0.1)
    new, truth = words(20_000, 1)
    assert expected_error([raw(e) for e in new], truth) > 0.1
    assert expected_error([found(e) for e in new], truth) < 0.02


@pytest.mark.parametrize("right", [True, False])
def test_words_that_are_all_right_or_all_wrong(right):
    evidence, _ = words(50)
    found = Calibration.fit(evidence, [right] * 50)
    assert all(math.isfinite(w) for w in found)
    assert all((found(e) > 0.8) == right for e in evidence)


def test_more_evidence_is_more_confidence():
    assert (
        TRUE(Evidence(-0.1, 0.9))
        > TRUE(Evidence(-0.1, 0.2))
        > TRUE(Evidence(-3.0, 0.2))
        > TRUE(Evidence(-math.inf, 0.0))
        > 0
    )


def test_the_share_of_hypotheses_that_have_a_word():
    nbest = [[("a", 5), ("b", 30)], [("a", 9), ("c", 30)], [("a", 50), ("b", 31)]]
    scores = [math.log(0.5) + 7, math.log(0.3) + 7, math.log(0.2) + 7]
    assert agreement(nbest[0], nbest, scores) == pytest.approx([0.8, 0.7])
    assert agreement([], [[]], [0.0]) == []


def test_a_reliability_diagram_has_parts_of_equal_size():
    parts = reliability([0.9, 0.1, 0.8, 0.3], [True, False, True, True], 2)
    assert [(round(c, 6), y, n) for c, y, n in parts] == [(0.2, 0.5, 2), (0.85, 1.0, 2)]
    assert expected_error([0.5, 0.5], [True, False], 1) == 0
    assert reliability([], [], 10) == []


def test_it_travels_in_the_model_folder(tmp_path):
    assert Calibration.read(tmp_path) is None
    TRUE.write(tmp_path)
    assert Calibration.read(tmp_path) == TRUE


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"bias": 1, "by_prob": "x", "by_agreed": 1}', TRUE_BUT_NAN])
def test_a_file_that_is_none(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match="not a calibration"):
        Calibration.read(tmp_path)


def test_nothing_to_learn_from():
    with pytest.raises(UserError, match="no word was recognized"):
        Calibration.fit([], [])
