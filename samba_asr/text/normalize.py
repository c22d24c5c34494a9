"""Named normalizers that make two texts comparable.  A caller chooses one by name; none is applied by default.

    none      the unchanged text
    upper     LibriSpeech's spelling: capitals without accents, apostrophe, single spaces, whole numbers in words;
              letters of other scripts stay
    whisper   the English rules of OpenAI Whisper (numbers, contractions, spelling), from the package whisper-normalizer

Report a word error rate with the name of its normalizer: it means nothing without.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from samba_asr.errors import UserError, missing_extra
from samba_asr.text.numbers import spoken

NAMES = ("none", "upper", "whisper")

_KEPT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
_APOSTROPHES = str.maketrans("\u2019\u02bc\uff07", "'''")  # right quote, modifier letter, full width


def normalizer(name: str) -> Callable[[str], str]:
    """Return the normalizer called `name`; UserError for an unknown name or a missing package."""
    if name == "none":
        return none
    if name == "upper":
        return spelled
    if name == "whisper":
        try:
            from whisper_normalizer.english import EnglishTextNormalizer
        except ImportError as error:
            raise missing_extra("whisper-normalizer", "score") from error
        return EnglishTextNormalizer()
    raise UserError(f"unknown normalizer {name!r}: use one of {', '.join(NAMES)}")


def none(text: str) -> str:
    return text


def lost(text: str, ruled: str) -> bool:
    """Return whether normalization of `text` to `ruled` dropped all its digits, or letters of scripts other than Latin."""
    digits = any(c.isdigit() for c in text) and not any(c.isalnum() for c in ruled)
    return digits or _foreign(ruled) < _foreign(text)


def _foreign(text: str) -> int:
    return sum(c.isalpha() and "LATIN" not in unicodedata.name(c, "LATIN") for c in unicodedata.normalize("NFKC", text))


def spelled(text: str) -> str:
    """Return `text` in capitals without accents and punctuation, for scoring; no spoken part is dropped.

    As `upper`, but whole numbers become words, and letters and digits of any
    script stay, with their marks.  A second application changes nothing.
    """
    text = spoken(unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)))
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).upper())
    kept, latin = [], True
    for c in text:
        kind = unicodedata.category(c)[0]
        if c in _KEPT or kind in "LN":
            latin = c in _KEPT
            kept.append(c)
        elif kind == "M":
            kept += [] if latin else [c]  # drop an accent, keep a vowel sign of Devanagari
        elif c != "." or (kept and kept[-1].isdigit()):
            kept.append(" ")
    return " ".join(word for word in "".join(kept).split() if any(c.isalnum() for c in word))


def upper(text: str) -> str:
    """Return `text` in the alphabet of LibriSpeech: A-Z and apostrophe, words separated by single spaces.

    >>> upper("Café, it\u2019s  open!")
    "CAFE IT'S OPEN"

    Accents are removed (É is E), and so are full stops (U.S. is US) and other letters.  All other characters separate words.
    Digits are dropped, NOT spoken: "in 1984" becomes "IN".  If numbers matter, apply `spoken` first.
    An apostrophe stays only next to a letter.  A second application changes nothing.
    """
    text = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES).upper()).upper()
    kept = (c if c in _KEPT else "" if c == "." or unicodedata.category(c)[0] in "LM" else " " for c in text)
    words = "".join(kept).split()
    return " ".join(word for word in words if re.search("[A-Z]", word))
