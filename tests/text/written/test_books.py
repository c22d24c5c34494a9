"""Cutting a text of many books into sets."""

from __future__ import annotations

import pytest

from samba_asr.errors import UserError
from samba_asr.text.written.books import MARGIN, lengths, split

HEAD = "title\tauthor\tid\tsource\tpath\tcharacters"


def row(n, title="A"):
    return f"{title}\tB\t1\tC\tD\t{n}"


def test_a_title_may_hold_line_ends():
    assert lengths([HEAD, row(5), ["A long", "title"][0], row(7, "title"), ""]) == [5, 7]


def test_books_are_held_out_whole():
    books = [[f"book {k} line {i:02}" for i in range(40)] for k in range(60)]
    table = [HEAD, *(row(sum(map(len, book))) for book in books)]
    sets = split([line for book in books for line in book], table)
    held = {"valid": (10, 50), "test": (30,)}
    for name, numbers in held.items():
        assert sets[name] == [line for k in numbers for line in books[k][MARGIN:-MARGIN]]
    known = {line.split()[1] for line in sets["train"]}
    assert known == {str(k) for k in range(60)} - {"10", "30", "50"}


@pytest.mark.parametrize("table", [[], [HEAD], [HEAD, "A\tB"]])
def test_other_tables_are_refused(table):
    with pytest.raises(UserError, match="not a table of books"):
        split(["text"], table)
