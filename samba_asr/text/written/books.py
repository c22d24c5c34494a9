"""Training, validation and test books for punctuation: one text of many books, cut by a table of them.

The table (TSV with a head) has a book a line, in the order of the text; its last column is the number of characters of the book.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

from samba_asr.errors import UserError

EVERY = 20  # one book in so many is held out, alternately for validation and for the test
MARGIN = 10  # paragraphs left out where a held-out book begins or ends: the counts of the table are not exact


def lengths(table: Sequence[str]) -> list[int]:
    """Return the characters of each book.  A title may hold line ends, so a row ends with its number.  UserError without rows."""
    found, row = [], ""
    for line in table[1:]:
        row = f"{row} {line}".strip()
        columns = row.split("\t")
        if len(columns) >= 6 and columns[-1].isdigit():
            found.append(int(columns[-1]))
            row = ""
    if not found or row:
        raise UserError("not a table of books: give a TSV whose last column is the number of characters of each book")
    return found


def split(paragraphs: Sequence[str], table: Sequence[str]) -> dict[str, list[str]]:
    """Return the paragraphs of the sets `train`, `valid` and `test`; no book is in two sets.

    Book 10 of each 20, from 0, is held out: for `valid`, then for `test`, in turns.
    """
    books = lengths(table)
    ends = list(itertools.accumulate(map(len, paragraphs)))
    if not ends or not ends[-1]:
        raise UserError("the text of the books is empty")
    scale = ends[-1] / sum(books)
    sets: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    begin, characters = 0, 0.0
    for k, length in enumerate(books):
        characters += length * scale
        end = min(bisect.bisect_left(ends, characters - 0.5) + 1, len(ends))
        if k == len(books) - 1:
            end = len(ends)
        place = k % EVERY
        first = begin + (MARGIN if place in (EVERY // 2, EVERY // 2 + 1) else 0)
        last = end - (MARGIN if place in (EVERY // 2, EVERY // 2 - 1) else 0)
        name = "train" if place != EVERY // 2 else "valid" if k // EVERY % 2 == 0 else "test"
        sets[name] += paragraphs[first : max(first, last)]
        begin = end
    return sets
