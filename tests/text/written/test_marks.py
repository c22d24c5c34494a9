"""Reading case and marks from text as printed, and writing words with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.text.written.marks import CAPITAL, LISTED, LOWER, MARKS, UPPER, case_of, labelled, spell


def one(text):
    runs = [run for run in labelled([text]) if run.words]
    assert len(runs) == 1
    return runs[0]


def written(run):
    listed = {spelling.lower(): spelling for spelling in run.listed}
    return " ".join(
        spell(word, case, mark, listed) for word, case, mark in zip(run.words, run.cases, run.marks, strict=True)
    )


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("He came.  Did she?", "He came. Did she?"),
        ("“No,” said he; “I’ll stay!”", "No, said he; I'll stay!"),
        ("Well--so be it.", "Well — so be it."),
        ("Well—so be it.", "Well — so be it."),
        ("Mr. Brown and Mrs. T. X. Smith left.", "Mister Brown and Missus T X Smith left."),
        ("I... don't know...", "I — don't know."),
        ("the café: a new-laid egg", "the cafe: a new laid egg."),
        ("McDonald told O'Brien.", "McDonald told O'Brien."),
        ("It is _not_ here. 'Tis there.", "It is not here. 'Tis there."),
        ("He did NOT go.", "He did NOT go."),
    ],
)
def test_the_marks_and_cases_of_printed_text(printed, expected):
    assert written(one(printed)) == expected


def test_a_run_ends_where_the_text_cannot_be_read_aloud_with_certainty():
    runs = [run.words for run in labelled(["In 1812 he left.", "Then"]) if run.words]
    assert runs == [["in"], ["he", "left", "then"]]


def test_headings_are_left_out():
    assert [run.words for run in labelled(["CHAPTER THE FIRST", "He came."])] == [["he", "came"]]


def test_the_cases():
    assert [case_of(word) for word in ("he", "I", "I'll", "He", "USA", "O'Brien", "McX")] == [
        LOWER, CAPITAL, CAPITAL, CAPITAL, UPPER, LISTED, LISTED,
    ]  # fmt: skip


def test_a_listed_word_without_a_spelling_has_a_capital():
    assert spell("mcx", LISTED, 0, {}) == "Mcx"


@given(
    st.lists(
        st.tuples(
            st.from_regex("[a-z]{2,6}", fullmatch=True), st.sampled_from([LOWER, CAPITAL, UPPER]), st.integers(0, 7)
        )
    )
)
def test_written_words_read_back_as_they_were(items):
    text = " ".join(spell(word, case, mark, {}) for word, case, mark in items)
    runs = list(labelled([text.lower() + " and so it goes on and on and on"]))
    words = [word for run in runs for word in run.words]
    assert words[: len(items)] == [word for word, _, _ in items]
    if items and sum(case == UPPER for _, case, _ in items) == 0:
        run = one(text + " and so on")
        assert run.cases[: len(items)] == [case for _, case, _ in items]
        assert run.marks[: len(items)] == [mark for _, _, mark in items]


def test_every_mark_is_its_own_class():
    assert len(set(MARKS)) == len(MARKS) == 8
