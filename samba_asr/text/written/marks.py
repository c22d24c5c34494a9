"""The mark after a word and the case of a word: the classes that the punctuation network predicts, and their reading from books.

for run in labelled(["He came.  Did she?"]):
    run.words    ["he", "came", "did", "she"]
    run.cases    [1, 0, 1, 0]                      of CASES
    run.marks    [0, 2, 0, 3]                      of MARKS
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

MARKS = ("", ",", ".", "?", "!", ";", ":", "—")
"""The marks after a word.  The first is none; the last stands apart from its word."""

ENDS = frozenset(MARKS.index(mark) for mark in ".?!")
"""The marks that end a sentence: the next word has a capital."""

CASES = ("lower", "capital", "upper", "listed")
"""Cases of a word: he, He, HE, and a spelling from a list, such as McDonald."""

LOWER, CAPITAL, UPPER, LISTED = range(4)

_TITLES = {"mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint", "prof": "professor", "messrs": "messieurs"}
"""Abbreviations with a full stop that ends no sentence, and how they are spoken."""

_PLAIN = str.maketrans(
    {"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "–": "--", "—": "--", "…": "...", "_": "", "æ": "ae", "œ": "oe"}
)
_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
_BREAK = re.compile(r"[\d&@#$%*/\\<>=+|~\[\]{}^\x80-\uffff]")  # how these are spoken is unknown
_MARK = re.compile(r"\.\.\.|--| - |[,.?!;:]")
_ELIDED = frozenset(["tis", "twas", "twere", "twould", "twill", "em"])  # spoken with their apostrophe


@dataclass
class Run:
    """Successive words of a text, without their case and marks, and these."""

    words: list[str] = field(default_factory=list)  # lower case
    cases: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)  # spellings of the words of the case LISTED, in order


def labelled(paragraphs: Iterable[str]) -> Iterator[Run]:
    """Yield the runs of a text with case and marks, one paragraph a line, in order.

    Quotes and brackets are dropped, a hyphen separates two words, accents are dropped.  A run ends where the text cannot be
    read aloud with certainty: at digits, symbols and other scripts.  Paragraphs in capitals (headings) are left out.
    """
    run = Run()
    for paragraph in paragraphs:
        text = paragraph.translate(_PLAIN)
        if not text.isascii():
            text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        letters = sum(map(str.isalpha, text))
        if not letters or sum(map(str.isupper, text)) > 0.4 * letters:
            continue
        found = list(_WORD.finditer(text))
        for i, match in enumerate(found):
            after = text[match.end() : found[i + 1].start() if i + 1 < len(found) else len(text)]
            spelling, word = match[0], match[0].lower()
            upcoming = found[i + 1][0][0].isupper() if i + 1 < len(found) else True
            if word in _ELIDED and text[match.start() - 1 : match.start()] == "'":
                word = f"'{word}"
            mark = _mark(after, upcoming)
            if after.startswith("."):
                if word in _TITLES:
                    word, mark = _TITLES[word], 0
                    spelling = word.capitalize() if spelling[0].isupper() else word
                elif len(spelling) == 1 and spelling.isupper() and spelling != "I":  # an initial
                    mark = 0
            if i + 1 == len(found) and mark == 0:
                mark = MARKS.index(".")
            case = case_of(spelling)
            run.words.append(word)
            run.cases.append(case)
            run.marks.append(mark)
            if case == LISTED:
                run.listed.append(spelling)
            if _BREAK.search(after):
                yield run
                run = Run()
    yield run


def _mark(after: str, capital: bool) -> int:
    """Return the mark in the text between two words.  capital: whether the second begins with a capital."""
    match = _MARK.search(after)
    if match is None:
        return 0
    if match[0] == "...":
        return MARKS.index("." if capital else "—")
    return MARKS.index(match[0]) if match[0] in MARKS else MARKS.index("—")


def case_of(spelling: str) -> int:
    """Return the case of a word.  One capital alone (I, A), and I with an ending (I'll), are CAPITAL."""
    if spelling == spelling.lower():
        return LOWER
    if spelling == spelling.capitalize():
        return CAPITAL
    return UPPER if spelling == spelling.upper() else LISTED


def spell(word: str, case: int, mark: int, listed: Mapping[str, str]) -> str:
    """Return a lower-case word in its case, with its mark.  listed: spellings of the words that have one."""
    if case == LISTED:
        word = listed.get(word, word.capitalize())
    elif case != LOWER:
        bare = word.lstrip("'")
        word = word[: len(word) - len(bare)] + (bare.capitalize() if case == CAPITAL else bare.upper())
    return word + (f" {MARKS[mark]}" if MARKS[mark] == "—" else MARKS[mark])


def read(text: str) -> tuple[int, int]:
    """Return the case and the mark of a written word: the inverse of `spell`."""
    bare = text.removesuffix(" —")
    if bare != text:
        return case_of(bare), MARKS.index("—")
    mark = MARKS.index(text[-1]) if text[-1:] in MARKS[1:] else 0
    return case_of(text[:-1] if mark else text), mark
