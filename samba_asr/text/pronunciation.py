"""Spellings and pronunciations, as a model writes them, of words as people type them.

`Speller` tries a word unchanged, then in forms that the model can write: without curly apostrophes, marks and accents, in another
case, with abbreviations and digits read aloud (ST. JOHN is SAINT JOHN, COVID-19 is COVID NINETEEN).  For a model of phones,
words that its lexicon lacks get a guess (`samba_asr.models.pronouncer`); words without a vowel (GPT) are spelled out.
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
"""Function that guesses the pronunciations of words; words without a guess are left out."""

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

    text: str  # in the model's spelling
    ways: list[list[int]]  # token ids of each pronunciation or spelling, the usual one first


class Speller:
    """Finder of a tokenizer's spellings of words."""

    def __init__(self, tokenizer: Tokenizer, guess: Guess | None = None):
        """guess: for words that the lexicon of a phone tokenizer lacks; None: those cannot be written."""
        self.tokenizer, self.guess = tokenizer, guess if tokenizer.KIND == "phone" else None
        self._phones: Any = tokenizer  # a PhoneTokenizer, where KIND says so
        self._lower = tokenizer.KIND == "phone" and not any(w.isupper() for w in list(self._phones.lexicon)[:100])

    def spell(self, words: Iterable[str]) -> dict[str, tuple[Spelt, ...]]:
        """Return, for each typed word, the words that the model writes, usually one.  Words it cannot write are left out."""
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
        """Parse `WORD = PHONE PHONE ...`; UserError for another format, or if the model has no such phones."""
        word, _, phones = (part.strip() for part in text.partition("="))
        if self.tokenizer.KIND != "phone":
            raise UserError(f"this model's units are {self.tokenizer.KIND}: give the word without a pronunciation")
        if len(word.split()) != 1 or not phones:
            raise UserError("write WORD = PHONE PHONE ..., with one word")
        said = tuple(re.sub(r"\d$", "", phone.upper()) for phone in phones.split())
        strange = sorted(set(said) - set(self._phones.lexicon.phones))
        if strange:
            raise UserError(f"unknown phones {', '.join(strange)}: use {', '.join(self._phones.lexicon.phones)}")
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
    """Yield possible spellings of a typed word, the most similar first; some are several words."""
    word = word.translate(_APOSTROPHES)
    yield word
    if (long := LONG_FORMS.get(word.upper())) is not None:
        yield long
    said = spoken(_JOINS.sub(" ", word))
    if re.search(r"\d", said):
        return  # without its digits it would be another phrase
    bare = "".join(c if c.isalpha() or c == "'" else "" if c == "." else " " for c in said)
    yield bare
    if plain := upper(bare):
        yield plain
