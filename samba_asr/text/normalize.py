"""Named rules that make two texts comparable.  Nothing here runs unless a caller asks for it by name.

    none      the text as it is
    upper     LibriSpeech's alphabet: A-Z, apostrophe, single spaces
    whisper   the English rules of OpenAI Whisper (numbers, contractions, spelling), from the package whisper-normalizer

A word error rate means something only beside the name of the rules used; report both.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from samba_asr.errors import UserError, missing_extra

NAMES = ("none", "upper", "whisper")

_KEPT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
_APOSTROPHES = str.maketrans("\u2019\u02bc\uff07", "'''")  # right quote, modifier letter, full width


def normalizer(name: str) -> Callable[[str], str]:
    """The rules called `name`; UserError for an unknown name or a package that is missing."""
    if name == "none":
        return none
    if name == "upper":
        return upper
    if name == "whisper":
        try:
            from whisper_normalizer.english import EnglishTextNormalizer
        except ImportError as error:
            raise missing_extra("whisper-normalizer", "score") from error
        return EnglishTextNormalizer()
    raise UserError(f"unknown normaliser {name!r}: one of {', '.join(NAMES)}")


def none(text: str) -> str:
    return text


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
