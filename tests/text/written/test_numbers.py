"""Numbers in digits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.text.numbers import spoken
from samba_asr.text.written import numbers
from samba_asr.text.written.numbers import digits

pytest.importorskip("text_to_num", reason="needs text2num")


def write(text):
    """A comma after a word separates it from the next one."""
    words = text.split()
    apart = [i > 0 and words[i - 1].endswith(",") for i in range(len(words))]
    words = [word.rstrip(",") for word in words]
    out, i = [], 0
    for number in digits(words, apart):
        out += [*words[i : number.start], number.text]
        i = number.end
    return " ".join([*out, *words[i:]])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("i have twenty five apples", "i have 25 apples"),
        ("one hundred and five", "105"),
        ("a hundred and five men", "105 men"),
        ("two point five", "2.5"),
        ("twelve thousand three hundred", "12,300"),
        ("one million two hundred thousand", "1.2 million"),
        # years
        ("nineteen eighty four", "1984"),
        ("in eighteen twelve", "in 1812"),
        ("nineteen oh five", "1905"),
        ("two thousand and six", "2006"),
        ("eighteen hundred", "1800"),
        ("in eleven fifty", "in 1150"),
        # dates and ordinals
        ("the twenty first of may", "the 21st of may"),
        ("june sixth nineteen forty four", "june 6th 1944"),
        ("may second", "may 2nd"),
        ("of may nineteen eighty four", "of may 1984"),
        ("may nineteen nineteen eighty four", "may 19 1984"),
        ("the twentieth century", "the 20th century"),
        # money and percentages
        ("five dollars and twenty five cents", "$5.25"),
        ("fifty cents", "50 cents"),
        ("five million dollars", "$5 million"),
        ("five percent or six per cent", "5% or 6%"),
        # times
        ("at ten thirty", "at 10:30"),
        ("ten oh five p m", "10:05 p.m."),
        ("five a m", "5 a.m."),
        ("three o'clock", "3 o'clock"),
        # rows of digits
        ("five five five one two three four", "555-1234"),
        ("zero zero seven", "007"),
        ("nine nine nine", "999"),
    ],
)
def test_what_is_written_in_digits(said, expected):
    assert write(said) == expected


@pytest.mark.parametrize(
    "said",
    [
        "one", "no one came", "the one", "two or three", "the first man", "second to none", "thirty second", "one second",
        "three thirds", "a hundred men", "a million", "hundreds of men", "half past three", "one and twenty",
        "three score and ten", "two fifty", "forty two one", "five pounds", "oh five", "twelve fifteen", "point five", "",
    ],
)  # fmt: skip
def test_what_stays_in_words(said):
    assert write(said) == said


def test_a_mark_separates_numbers():
    assert write("one, two, three") == "one two three"
    assert write("twenty, five of them") == "20 five of them"


@given(st.integers(10, 999_999))
def test_every_number_is_read_back(n):
    pytest.importorskip("num2words")
    words = spoken(f"{n:,}").replace("-", " ").split()
    assert write(" ".join(words)) == (f"{n:,}" if n >= 10_000 else str(n))


@given(
    st.lists(
        st.sampled_from(
            [
                "one",
                "two",
                "ten",
                "twenty",
                "oh",
                "and",
                "a",
                "hundred",
                "point",
                "first",
                "second",
                "dollars",
                "cents",
                "may",
                "at",
                "p",
                "m",
                "zero",
            ]
        )
    )
)
def test_spans_are_in_order_and_any_words_are_accepted(words):
    at = 0
    for number in digits(words):
        assert at <= number.start < number.end <= len(words)
        assert number.text
        at = number.end


def test_without_text2num_one_warning_says_so(monkeypatch, caplog):
    numbers.available.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    try:
        assert not numbers.available()
        assert not numbers.available()
    finally:
        numbers.available.cache_clear()
    assert [record.message for record in caplog.records] == [
        "numbers stay in words, because the package text2num is not installed: pip install text2num"
    ]
