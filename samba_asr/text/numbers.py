"""Numbers as spoken words, by the package num2words."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\b(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d+)\b(?!\.\d)|(st|nd|rd|th)?\b)", re.IGNORECASE)
YEARS = range(1100, 2000)  # four digits without a comma
LONGEST = 12  # digits; longer numbers, such as telephone numbers, are read digit by digit


def spoken(text: str) -> str:
    """Replace numbers in `text` by English words: 17 is seventeen, 3rd third, 1832 eighteen thirty-two, 2.5 two point five.

    >>> spoken("the 3rd of May 1832, 2.5 miles")
    'the third of May eighteen thirty-two, two point five miles'

    Prices, times, fractions with a slash and Roman numerals are not supported.
    """
    if not _NUMBER.search(text):
        return text
    from num2words import num2words

    def words(found: re.Match) -> str:
        digits, decimals, ordinal = found[1].replace(",", ""), found[2], found[3]
        if decimals:
            after = " ".join(num2words(int(digit)) for digit in decimals)
            return f"{num2words(int(digits)).replace(',', '')} point {after}"
        if len(digits) > LONGEST:
            return " ".join(num2words(int(digit)) for digit in digits)
        if ordinal:
            return num2words(int(digits), to="ordinal")
        year = found[1] == digits and len(digits) == 4 and int(digits) in YEARS
        return num2words(int(digits), to="year" if year else "cardinal").replace(",", "")

    return _NUMBER.sub(words, text)
