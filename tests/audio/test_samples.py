"""Samples from memory: scaled by their type, or refused with the fix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samba_asr.audio.samples import as_rate, as_samples
from samba_asr.errors import UserError


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (np.array([0, 16384, -32768], np.int16), [0, 0.5, -1]),
        (np.array([0, 64, -128], np.int8), [0, 0.5, -1]),
        (np.array([128, 192, 0], np.uint8), [0, 0.5, -1]),
        (np.array([0, 2**30, -(2**31)], np.int32), [0, 0.5, -1]),
        (np.array([0, 0.5, -1], np.float64), [0, 0.5, -1]),
        (np.array([0, 0.5, -1], np.float16), [0, 0.5, -1]),
        (np.array([0, 16384, -32768], ">i2"), [0, 0.5, -1]),
        ([0.0, 0.5, -1.0], [0, 0.5, -1]),
        (torch.tensor([0, 0.5, -1]), [0, 0.5, -1]),
        ([], []),
        (np.zeros(0, np.int64), []),
    ],
)
def test_samples_of_a_usual_type_are_scaled_by_it(given_, expected):
    samples = as_samples(given_)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, np.float32(expected))


def test_float32_is_not_copied():
    samples = np.zeros(5, np.float32)
    assert as_samples(samples) is samples


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (np.array([1000.0, -32768.0]), r"up to 32768 .*samples / 32768"),
        (np.array([1, 2]), r"int64 .*\.astype\(np\.int16\)"),
        (np.array([1, 2], np.uint16), "uint16"),
        (np.zeros((100, 2), np.float32), r"shape \(100, 2\): mix .* samples\.mean\(axis=1\)"),
        (np.zeros((2, 100), np.float32), r"mean\(axis=0\)"),
        (np.float32(1), r"shape \(\)"),
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\)"),
        (b"\0\0\1\0", r"4 bytes .* np\.frombuffer\(chunk, np\.int16\)"),
        ("speech.wav", "str .* for a file's path use transcribe"),
        (None, "NoneType of object"),
        (np.array([True]), "bool"),
        (np.array([1j]), "complex"),
        ([[1.0], [2.0, 3.0]], "this list cannot be converted to samples"),
        (torch.zeros(3, requires_grad=True), r"\.detach\(\)\.cpu\(\)"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_fix(given_, message):
    with pytest.raises(UserError, match=message) as caught:
        as_samples(given_)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_named_with_its_position(bad):
    samples = np.zeros(100, np.float32)
    samples[[40, 50]] = bad
    with pytest.raises(UserError, match=rf"sample 16040 \(1\.002 s\) is {bad}"):
        as_samples(samples, received=16000, rate=16000)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        st.one_of(hnp.scalar_dtypes(), hnp.unicode_string_dtypes()),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
    )
)
def test_any_array_gives_finite_float32_or_a_user_error(x):
    try:
        samples = as_samples(x)
    except UserError:
        return
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert np.isfinite(samples).all()


def test_a_rate_is_a_whole_number_that_audio_has():
    assert [as_rate(rate) for rate in (16000, 44100.0, np.int64(8000))] == [16000, 44100, 8000]
    assert all(type(as_rate(rate)) is int for rate in (44100.0, np.int64(8000)))
    for rate in (0, -16000, 999, 768_001, 16000.5, float("nan"), float("inf"), "16000", None, [16000]):
        with pytest.raises(UserError, match=r"rate=.*: give samples per second, a whole number from 1000 to 768000"):
            as_rate(rate)
