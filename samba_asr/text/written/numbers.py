"""Numbers, ordinals, money, percentages, times and years in digits: English words to what people write.

    digits("it cost five dollars and twenty five cents in nineteen eighty four".split())
    # [Digits(2, 8, "$5.25"), Digits(9, 12, "1984")]

The package text2num finds numbers.  What it joins wrongly, or not at all, is decided here:

- Numbers below ten stay words, as newspapers write them, except in money, percentages, times, dates and rows of digits.
- A hundred, a thousand and a million stay words; a hundred and five is 105.
- Two adjacent numbers are a year (nineteen eighty four), a time (at ten thirty) or a row of digits (five five five).  Any others
  stay words, because nobody knows where one ends.
- Second is a part of a minute unless a month says otherwise.  One and twenty, three thirds and three score and ten stay words.
- Pounds may be a weight, so they get no sign.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from samba_asr.errors import missing_extra

logger = logging.getLogger(__name__)


class Digits(NamedTuple):
    """Words `start` to `end` (excluded), written as `text`."""

    start: int
    end: int
    text: str


class _Number(NamedTuple):
    start: int
    end: int
    text: str
    value: float
    ordinal: bool


class _Token:
    """A word as text2num wants it."""

    def __init__(self, text: str, apart: bool):
        self._text, self._apart = text, apart

    def text(self) -> str:
        return self._text

    def nt_separated(self, previous: Any) -> bool:
        return self._apart

    def not_a_number_part(self) -> bool:
        return False


SMALL = 10  # numbers below it stay words
_SIGNS = {"dollar": "$", "dollars": "$", "euro": "€", "euros": "€"}
_CENTS = {"cent", "cents"}
_SCALES = {"hundred", "thousand", "million", "billion", "trillion"}
_MONTHS = frozenset(
    "january february march april may june july august september october november december".split()  # noqa: SIM905
)
_OH = {"oh", "o"}
_BEFORE_TIME = {"at", "by", "until", "till", "around", "about", "before", "after"}
_BEFORE_YEAR = {"in", "since", "of", "year", "from", "to", "until", "till", "by", "around", "about", *_MONTHS}
_MAX_ROW = 24  # digits


@functools.cache
def available() -> bool:
    """Return whether the package text2num is installed; the first time, warn if it is not, as beside an exported model."""
    found = importlib.util.find_spec("text_to_num") is not None
    if not found:
        logger.warning("numbers stay in words, because the package text2num is not installed: pip install text2num")
    return found


def digits(words: Sequence[str], apart: Sequence[bool] | None = None) -> list[Digits]:
    """Find what is written in digits, in order, without overlap.

    words: spoken words in lower case.  apart: for each word, whether something (a mark, a pause) separates it from the word
    before; default: nothing does.
    """
    apart = [False] * len(words) if apart is None else list(apart)
    numbers = _numbers(words, apart)
    found, i = [], 0
    while i < len(numbers):
        run = [numbers[i]]  # adjacent numbers
        while i + 1 < len(numbers) and _adjacent(words, apart, run[-1], numbers[i + 1]):
            i += 1
            run.append(numbers[i])
        i += 1
        found += _written(words, apart, run)
    return _joined(words, apart, found)


def _numbers(words: Sequence[str], apart: Sequence[bool]) -> list[_Number]:
    try:
        from text_to_num import find_numbers
    except ImportError as error:
        raise missing_extra("text2num", "written") from error
    tokens: list[Any] = [_Token(word, there) for word, there in zip(words, apart, strict=True)]
    found = []
    for one in find_numbers(tokens, "en", 0.0):
        start = one.start
        if words[start] in _SCALES and start and words[start - 1] == "a" and not apart[start] and one.end - start > 1:
            start -= 1  # a hundred and five
        found.append(_Number(start, one.end, one.text, one.value, one.is_ordinal))
    return found


def _adjacent(words: Sequence[str], apart: Sequence[bool], first: _Number, second: _Number) -> bool:
    """Return whether no word, or only the digit "oh", stands between two numbers, and nothing separates them."""
    between = range(first.end, second.start)
    return all(words[i] in _OH for i in between) and not any(apart[i] for i in [*between, second.start])


def _written(words: Sequence[str], apart: Sequence[bool], run: list[_Number]) -> list[Digits]:
    """Write a run of adjacent numbers."""
    start, end = run[0].start, run[-1].end
    before = words[start - 1] if start and not apart[start] else ""
    if len(run) == 1:
        return _single(words, apart, run[0], before)
    row = _row(words, run)
    if row:
        return [Digits(start, end, row)]
    year = len(run) == 2 and 13 <= run[0].value <= 20 and 10 <= run[1].value <= 99 and not any(n.ordinal for n in run)
    if before in _MONTHS and run[0].value <= 31 and run[0].text != "0" and not year:  # a day, then perhaps a year
        return [Digits(run[0].start, run[0].end, run[0].text), *_written(words, apart, run[1:])]
    if len(run) == 2 and not any(one.ordinal for one in run):
        first, second = (int(one.value) for one in run)
        oh = run[0].end < run[1].start
        minutes = f"{second:02}"
        fits = (oh and 0 < second < 10) or (not oh and 10 <= second <= 99)
        simple = all(one.value == int(one.value) and len(one.text) <= 2 for one in run)
        if fits and simple and 1 <= first <= 12 and second < 60:
            after = _half_of_day(words, apart, end)
            if before in _BEFORE_TIME or after:
                return [
                    Digits(start, end + (after[1] if after else 0), f"{first}:{minutes}{after[0] if after else ''}")
                ]
        if fits and simple and (13 <= first <= 20 or (first in (10, 11, 12) and before in _BEFORE_YEAR)):
            return [Digits(start, end, f"{first}{minutes}")]
    return []


def _single(words: Sequence[str], apart: Sequence[bool], one: _Number, before: str) -> list[Digits]:
    start, end, text, value, ordinal = one
    after = words[end] if end < len(words) and not apart[end] else ""
    if ordinal:
        month = before in _MONTHS or (after == "of" and end + 1 < len(words) and words[end + 1] in _MONTHS)
        plain = text.endswith(("st", "nd", "rd", "th"))
        second = words[end - 1] == "second"
        wanted = (month and value <= 31) or (value >= SMALL and not second)
        return [Digits(start, end, _grouped(text))] if plain and wanted else []
    if words[start].rstrip("s") in _SCALES and end - start == 1:
        return []  # hundred, thousands
    if text.startswith("0") and len(text) >= 3 and text.isdigit():
        return [Digits(start, end, text)]  # zero zero seven
    if start > 1 and words[start - 1] == "and" and not apart[start]:
        tens = words[start - 2] in _UNITS and value in range(20, 100, 10)  # one and twenty
        if tens or words[start - 2] in {"score", "dozen"}:
            return []
    if after in _SIGNS:
        return [Digits(start, end + 1, _SIGNS[after] + _grouped(text))]
    if after in _CENTS:
        return [Digits(start, end, text)]
    if after == "percent":
        return [Digits(start, end + 1, f"{_grouped(text)}%")]
    if after == "per" and words[end + 1 : end + 2] == ["cent"]:
        return [Digits(start, end + 2, f"{_grouped(text)}%")]
    if 1 <= value <= 12 and len(text) <= 2:
        if after == "o'clock":
            return [Digits(start, end, text)]
        if half := _half_of_day(words, apart, end):
            return [Digits(start, end + half[1], text + half[0])]
    if before in _MONTHS and 1 <= value <= 31:
        return [Digits(start, end, text)]
    return [Digits(start, end, _grouped(text))] if value >= SMALL or "." in text else []


_UNITS = frozenset(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])


def _row(words: Sequence[str], run: list[_Number]) -> str:
    """Return a row of three or more spoken digits, or "" if the run is none.  Seven and ten digits are telephone numbers."""
    found, at = "", run[0].start
    for one in run:
        found += "0" * (one.start - at)  # oh
        at = one.end
        if not one.text.isdigit() or (len(one.text) > 1 and one.text[0] != "0"):
            return ""
        found += one.text
    if not 3 <= len(found) <= _MAX_ROW:
        return ""
    if len(found) == 7:
        return f"{found[:3]}-{found[3:]}"
    return f"{found[:3]}-{found[3:6]}-{found[6:]}" if len(found) == 10 else found


def _half_of_day(words: Sequence[str], apart: Sequence[bool], at: int) -> tuple[str, int] | None:
    """Return " a.m." or " p.m." and its number of words, if the words at `at` say so."""
    for spoken in (["a", "m"], ["p", "m"], ["am"], ["pm"], ["a.m."], ["p.m."]):
        if list(words[at : at + len(spoken)]) == spoken and not any(apart[at : at + len(spoken)]):
            if spoken == ["am"] and at + 1 < len(words) and words[at + 1 : at + 2] != ["on"]:
                continue  # the verb
            return f" {spoken[0][0]}.m.", len(spoken)
    return None


def _grouped(text: str) -> str:
    """Write 12000 as 12,000, and whole millions in words: 2 million.  Four digits may be a year, and stay."""
    number = text.rstrip("stndrh")
    ending = text[len(number) :]
    if not number.isdigit() or len(number) < 5:
        return text
    value = int(number)
    for scale, name in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if not ending and value >= scale and value % (scale // 10) == 0:
            return f"{value / scale:g} {name}"
    return f"{value:,}{ending}"


def _joined(words: Sequence[str], apart: Sequence[bool], found: list[Digits]) -> list[Digits]:
    """Join dollars and cents: $5 and 25 cents is $5.25."""
    joined: list[Digits] = []
    for one in found:
        last = joined[-1] if joined else None
        cents = words[one.end : one.end + 1] and words[one.end] in _CENTS and one.text.isdigit() and int(one.text) < 100
        money = last and cents and last.text[0] in _SIGNS.values() and "." not in last.text
        if (
            last
            and money
            and list(words[last.end : one.start]) in ([], ["and"])
            and not any(apart[last.end : one.end + 1])
        ):
            joined[-1] = Digits(last.start, one.end + 1, f"{last.text}.{int(one.text):02}")
        else:
            joined.append(one)
    return joined
