"""Confidences that mean what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from samba_asr.decoding.confidence import (
    FILE,
    PLAIN,
    WITH_LATTICE,
    Calibration,
    Evidence,
    agreement,
    area_under_curve,
    expected_error,
    normalized_cross_entropy,
    raw,
    reliability,
)
from samba_asr.errors import UserError

TRUE = Calibration.two(-1.0, 0.7, 0.4)


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
    (one,) = found.models
    weights = np.array(one.weights) / one.deviation
    assert weights == pytest.approx(TRUE.models[0].weights, abs=0.1)
    assert one.bias - weights @ one.mean == pytest.approx(TRUE.models[0].bias, abs=0.1)
    new, truth = words(20_000, 1)
    assert expected_error([raw(e) for e in new], truth) > 0.1
    assert expected_error([found(e) for e in new], truth) < 0.02


def test_words_with_a_lattice_have_a_model_of_their_own():
    """All but the posterior is noise to the second set of words; the first has no lattice."""
    rng = np.random.default_rng(0)
    plain, right = words(1000)
    shares, more = rng.uniform(0, 1, 1500), rng.standard_normal((1500, 8))
    names = Evidence._fields
    evidence = [
        Evidence(-0.2, 1.0)._replace(**dict(zip(names[2:], map(float, row), strict=True)))._replace(posterior=share)
        for row, share in zip(more, shares, strict=True)
    ]
    found = Calibration.fit([*plain, *evidence], [*right, *(rng.random(1500) < shares).tolist()])
    assert [one.names for one in found.models] == [WITH_LATTICE, PLAIN]
    assert found(evidence[0]._replace(posterior=0.9)) > 0.8 > 0.2 > found(evidence[0]._replace(posterior=0.1))
    assert found(plain[0]) == found.models[1](plain[0])
    assert [one.names for one in Calibration.fit(plain, right).models] == [PLAIN]
    assert found.heard(evidence[0]._replace(posterior=0.9)) == found.heard(evidence[0]._replace(posterior=0.1))
    assert found.heard(plain[0]._replace(log_prob=-0.1)) > found.heard(plain[0]._replace(log_prob=-2.0))
    assert TRUE.heard(plain[0]) == TRUE(plain[0])
    assert Calibration(found.models[:1])(plain[0]) == raw(plain[0])


@pytest.mark.parametrize("right", [True, False])
def test_words_that_are_all_right_or_all_wrong(right):
    evidence, _ = words(50)
    found = Calibration.fit(evidence, [right] * 50)
    assert all(math.isfinite(w) for one in found.models for w in (*one.weights, one.bias))
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


def test_what_the_confidences_know():
    right = [True, True, True, False]
    assert normalized_cross_entropy([0.75] * 4, right) == pytest.approx(0)
    assert normalized_cross_entropy([1.0, 1.0, 1.0, 0.0], right) > 0.99
    assert normalized_cross_entropy([0.9, 0.9, 0.1, 0.9], right) < 0
    loss = -(3 * math.log(0.8) + math.log(1 - 0.4)) / 4
    most = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert normalized_cross_entropy([0.8, 0.8, 0.8, 0.4], right) == pytest.approx(1 - loss / most)
    assert area_under_curve([0.9, 0.5, 0.2, 0.5], right) == pytest.approx((1 + 0.5 + 0) / 3)
    assert math.isnan(area_under_curve([0.5], [True]))
    assert math.isnan(normalized_cross_entropy([], []))


def test_it_travels_in_the_model_folder(tmp_path):
    assert Calibration.read(tmp_path) is None
    for calibration in (TRUE, Calibration.fit(*words(50))):
        calibration.write(tmp_path)
        assert Calibration.read(tmp_path) == calibration


def test_a_file_of_version_1(tmp_path):
    (tmp_path / FILE).write_text('{"bias": -1.0, "by_prob": 0.7, "by_agreed": 0.4}')
    assert Calibration.read(tmp_path) == TRUE
    one = 1 / (1 + math.exp(-(-1.0 + 0.7 * math.log(0.8 / 0.2) + 0.4 * math.log(0.6 / 0.4))))
    assert TRUE(Evidence(math.log(0.8), 0.6)) == pytest.approx(one)


NAN = '{"bias": NaN, "by_prob": 0.7, "by_agreed": 0.4}'
NEWER = '{"version": 3}'
STRANGE = '{"version": 2, "models": [{"names": ["x"], "weights": [1], "mean": [0], "deviation": [1], "bias": 0}]}'
SHORT = '{"version": 2, "models": [{"names": ["agreed"], "weights": [], "mean": [0], "deviation": [1], "bias": 0}]}'
TEXTS = ["", "[]", "{}", '{"bias": 1, "by_prob": "x", "by_agreed": 1}', NAN, NEWER, STRANGE, SHORT, '{"version": 2}']


@pytest.mark.parametrize("text", TEXTS)
def test_a_file_that_is_none(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match="not a calibration"):
        Calibration.read(tmp_path)


def test_nothing_to_learn_from():
    with pytest.raises(UserError, match="no word was recognized"):
        Calibration.fit([], [])
