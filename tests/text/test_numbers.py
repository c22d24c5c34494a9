"""Numbers are read aloud as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.text.normalize import upper
from samba_asr.text.numbers import spoken


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Chapter 17.", "Chapter seventeen."),
        ("the 3rd of June 1832, a date", "the third of June eighteen thirty-two, a date"),
        ("in 1,832 cases", "in one thousand eight hundred and thirty-two cases"),
        ("2000 men", "two thousand men"),
        ("the 21ST", "the twenty-first"),
        ("R2D2 and A4", "R2D2 and A4"),  # a part of a word is no number
        ("0", "zero"),
        ("nothing to say", "nothing to say"),
        ("5551234567890", "five five five one two three four five six seven eight nine zero"),
    ],
)
def test_spoken(text, expected):
    assert spoken(text) == expected


@given(st.integers(0, 10**14))
def test_every_number_becomes_words(number):
    said = upper(spoken(f"{number}"))
    assert said
    assert not set(said) & set("0123456789")
