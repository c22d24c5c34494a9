"""Named rules that make two texts comparable.  Nothing here runs unless a caller asks for it by name.

    none      the text as it is
    upper     LibriSpeech's way of writing: capitals without accents, apostrophe, single spaces, whole numbers in words;
              letters of other scripts stay, and so do digits where num2words (the extra label) is not installed
    whisper   the English rules of OpenAI Whisper (numbers, contractions, spelling), from the package whisper-normalizer

A word error rate means something only beside the name of the rules used; report both.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Callable

from samba_asr.errors import UserError, missing_extra
from samba_asr.text.numbers import spoken

NAMES = ("none", "upper", "whisper")

_KEPT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
_APOSTROPHES = str.maketrans("\u2019\u02bc\uff07", "'''")  # right quote, modifier letter, full width


def normalizer(name: str) -> Callable[[str], str]:
    """The rules called `name`; UserError for an unknown name or a package that is missing."""
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
    raise UserError(f"unknown normaliser {name!r}: one of {', '.join(NAMES)}")


def none(text: str) -> str:
    return text


def lost(text: str, ruled: str) -> bool:
    """Whether rules have dropped all digits of a text that has some, or letters of other scripts than Latin."""
    digits = any(c.isdigit() for c in text) and not any(c.isalnum() for c in ruled)
    return digits or _foreign(ruled) < _foreign(text)


def _foreign(text: str) -> int:
    return sum(c.isalpha() and "LATIN" not in unicodedata.name(c, "LATIN") for c in unicodedata.normalize("NFKC", text))


def spelled(text: str) -> str:
    """`text` in capitals without accents and punctuation, for scoring; nothing that is said is dropped.

    As `upper`, but whole numbers are put into words (where num2words is not installed, digits stay as they are), and
    letters and digits of any script stay, with the marks that belong to them.  Applying it twice changes nothing.
    """
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
    if importlib.util.find_spec("num2words"):
        text = spoken(text)
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).upper())
    kept, latin = [], True
    for c in text:
        kind = unicodedata.category(c)[0]
        if c in _KEPT or kind in "LN":
            latin = c in _KEPT
            kept.append(c)
        elif kind == "M":
            kept += [] if latin else [c]  # an accent goes, a vowel sign of Devanagari stays
        elif c != "." or (kept and kept[-1].isdigit()):
            kept.append(" ")
    return " ".join(word for word in "".join(kept).split() if any(c.isalnum() for c in word))


def upper(text: str) -> str:
    """`text` in the alphabet of LibriSpeech: A-Z and apostrophe, words parted by single spaces.

    Accents go (É is E), full stops go without a trace (U.S. is US), other letters are dropped from their word, and all
    else parts words.  Digits are dropped, NOT spoken: "in 1984" becomes "IN".  Where numbers matter, spell them first.
    An apostrophe stays only where it touches a letter.  Applying it twice changes nothing.
    """
    text = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES).upper()).upper()
    kept = (c if c in _KEPT else "" if c == "." or unicodedata.category(c)[0] in "LM" else " " for c in text)
    words = "".join(kept).split()
    return " ".join(word for word in words if re.search("[A-Z]", word))
