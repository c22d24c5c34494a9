"""Normalisers are chosen by name and do what their docstring says."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.errors import UserError
from samba_asr.text.normalize import NAMES, lost, normalizer, spelled, upper


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", "HELLO WORLD"),
        ("  don't \t stop\n", "DON'T STOP"),
        ("don\u2019t", "DON'T"),
        ("well-known / either\u2013or", "WELL KNOWN EITHER OR"),
        ("the U.S. at 5 p.m.", "THE US AT PM"),
        ("in 1984, 3,000 men", "IN MEN"),
        ("Café naïve Łódź Straße", "CAFE NAIVE ODZ STRASSE"),
        ("rock ' n ' roll 'twas", "ROCK N ROLL 'TWAS"),
        ("日本 ok", "OK"),
        ("", ""),
    ],
)
def test_upper(text, expected):
    assert upper(text) == expected


@given(st.text(max_size=60))
def test_upper_yields_its_alphabet_and_is_idempotent(text):
    once = upper(text)
    assert set(once) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")
    assert once == " ".join(once.split())
    assert upper(once) == once


@given(st.text(max_size=20))
def test_none_changes_nothing(text):
    assert normalizer("none")(text) == text


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="'uper': use one of none, upper, whisper"):
        normalizer("uper")


def test_whisper_is_optional():
    assert "whisper" in NAMES
    if importlib.util.find_spec("whisper_normalizer") is None:
        with pytest.raises(UserError, match=r"'\.\[score\]"):
            normalizer("whisper")
    else:
        assert normalizer("whisper")("Mr. Smith can't pay twenty dollars.") == "mister smith can not pay $20"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world! It\u2019s the U.S.", "HELLO WORLD IT'S THE US"),
        ("Café naïve Łódź", "CAFE NAIVE ŁODZ"),
        ("привет, мир", "ПРИВЕТ МИР"),
        ("日本 ok", "日本 OK"),
        ("नमस्ते", "नमस्ते"),
        ("R2D2", "R2D2"),
    ],
)
def test_scoring_drops_no_script(text, expected):
    assert normalizer("upper")(text) == expected


def test_scoring_speaks_numbers():
    assert normalizer("upper")("pay 3,500 dollars") == "PAY THREE THOUSAND FIVE HUNDRED DOLLARS"
    assert normalizer("upper")("2.5 miles") == "TWO POINT FIVE MILES"


@given(st.text(max_size=60))
def test_spelled_loses_no_letter_and_no_digit_and_is_idempotent(text):
    once = spelled(text)
    assert spelled(once) == once
    assert once == " ".join(once.split())
    if any(c.isalnum() and c != "\u02bc" for c in text):  # an apostrophe, which Unicode counts as a letter
        assert any(c.isalnum() for c in once)


def test_lost_tells_what_rules_dropped():
    assert lost("in 1984", upper("in 1984")) is False  # words are left: this is about what vanishes whole
    assert lost("1984", upper("1984"))
    assert lost("the мир", upper("the мир"))
    assert not lost("Café", upper("Café"))
