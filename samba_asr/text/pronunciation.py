"""Words as people type them, in the way that a model writes them, and how they are pronounced.

`Speller` tries a word as it is, then without what this model cannot write: curly apostrophes, marks, accents, another case; full
stops, hyphens and digits are read aloud (ST. JOHN is SAINT JOHN, COVID-19 is COVID NINETEEN).  What a model of phones has in no
lexicon is guessed (`samba_asr.models.pronouncer`), or spelt letter by letter where no vowel is in it (GPT).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from samba_asr.errors import UserError
from samba_asr.text.lexicon import Pronunciation
from samba_asr.text.normalize import upper
from samba_asr.text.numbers import spoken
from samba_asr.text.units import Tokenizer

Guess = Callable[[Sequence[str]], Mapping[str, Sequence[Pronunciation]]]
"""How words are probably pronounced; those that it knows nothing of are left out."""

LONG_FORMS = {
    "ST.": "SAINT",
    "MR.": "MISTER",
    "MRS.": "MISSUS",
    "DR.": "DOCTOR",
    "MT.": "MOUNT",
    "JR.": "JUNIOR",
    "SR.": "SENIOR",
    "PROF.": "PROFESSOR",
    "&": "AND",
}
_APOSTROPHES = str.maketrans("‘’ʼ＇`´", "''''''")
_JOINS = re.compile(
    r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])(?!(?:st|nd|rd|th)\b)", re.IGNORECASE
)  # GPT|4, 4|K, not 3rd


class Spelt(NamedTuple):
    """A word that a model can write."""

    text: str  # as the model writes it
    ways: list[list[int]]  # token ids of each pronunciation or spelling, the usual one first


class Speller:
    """Finds how a tokenizer writes words."""

    def __init__(self, tokenizer: Tokenizer, guess: Guess | None = None):
        """guess: for words that the lexicon of a phone tokenizer lacks; None: those cannot be written."""
        self.tokenizer, self.guess = tokenizer, guess if tokenizer.KIND == "phone" else None
        self._phones: Any = tokenizer  # a PhoneTokenizer, where KIND says so
        self._lower = tokenizer.KIND == "phone" and not any(w.isupper() for w in list(self._phones.lexicon)[:100])

    def spell(self, words: Iterable[str]) -> dict[str, tuple[Spelt, ...]]:
        """Of each word, as typed, what the model writes: mostly one word.  Those that it cannot write are left out."""
        found: dict[str, tuple[Spelt, ...]] = {}
        asked: dict[str, list[str]] = {}
        for word in dict.fromkeys(words):
            forms = list(_forms(word))
            for form in forms:
                parts = [self._known(part) for part in form.split()]
                if (known := [part for part in parts if part]) and len(known) == len(parts):
                    found[word] = tuple(known)
                    break
            else:
                if self.guess and forms and (parts := forms[-1].split()):
                    asked[word] = [part.lower() if self._lower else part.upper() for part in parts]
        unknown = list(dict.fromkeys(part for parts in asked.values() for part in parts if not self._known(part)))
        guessed = self._guessed(unknown)
        for word, parts in asked.items():
            spelt = [some for part in parts if (some := self._known(part) or guessed.get(part))]
            if len(spelt) == len(parts):
                found[word] = tuple(spelt)
        return found

    def pronounced(self, text: str) -> Spelt:
        """`WORD = PHONE PHONE ...`; UserError for what is no such thing, or not for this model."""
        word, _, phones = (part.strip() for part in text.partition("="))
        if self.tokenizer.KIND != "phone":
            raise UserError(f"this model's units are {self.tokenizer.KIND}, and take no pronunciation")
        if len(word.split()) != 1 or not phones:
            raise UserError("write WORD = PHONE PHONE ..., one word")
        said = tuple(re.sub(r"\d$", "", phone.upper()) for phone in phones.split())
        strange = sorted(set(said) - set(self._phones.lexicon.phones))
        if strange:
            raise UserError(f"no phones {', '.join(strange)}; there are {', '.join(self._phones.lexicon.phones)}")
        word = word.translate(_APOSTROPHES)
        return Spelt(word.lower() if self._lower else word.upper(), [self._phones.units_of(said)])

    def _known(self, part: str) -> Spelt | None:
        for form in (part, part.upper(), part.lower()):
            if ways := self.tokenizer.spellings(form):
                return Spelt(form, ways)
        return None

    def _guessed(self, words: Sequence[str]) -> dict[str, Spelt]:
        if not words or self.guess is None:
            return {}
        lexicon, found = self._phones.lexicon, {}
        guessed = self.guess(words)
        phones = set(lexicon.phones)
        for word in words:
            letters = [lexicon.get(letter) for letter in word]
            if not re.search("[aeiouy]", word, re.IGNORECASE) and all(letters):
                some: Sequence[Pronunciation] = [tuple(phone for letter in letters for phone in letter[0])]
            else:
                some = guessed.get(word, ())
            if ways := [self._phones.units_of(one) for one in some if phones.issuperset(one)]:
                found[word] = Spelt(word, ways)
        return found


def _forms(word: str) -> Iterator[str]:
    """How a typed word may be written, the nearest first; some are several words."""
    word = word.translate(_APOSTROPHES)
    yield word
    if (long := LONG_FORMS.get(word.upper())) is not None:
        yield long
    said = spoken(_JOINS.sub(" ", word))
    if re.search(r"\d", said):
        return  # to leave digits out would be another phrase
    bare = "".join(c if c.isalpha() or c == "'" else "" if c == "." else " " for c in said)
    yield bare
    if plain := upper(bare):
        yield plain
