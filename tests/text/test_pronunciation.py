"""Words as they are typed, in the way that a model writes them."""

from __future__ import annotations

import pytest

from samba_asr.text.lexicon import Lexicon
from samba_asr.text.phones import PhoneTokenizer
from samba_asr.text.pronunciation import Speller
from samba_asr.text.tokenizer import CharTokenizer

WORDS = ["DON'T", "SAINT", "JOHN", "NINETEEN", "FOUR", "CAFE", "WELL", "KNOWN", "G", "P", "T", "US", "THIRD"]
PHONES = PhoneTokenizer(Lexicon(dict.fromkeys(WORDS, (("AH", "T"), ("T",)))))
UPPER, LOWER = CharTokenizer(["▁", "'", *"ADEHJMNORST"]), CharTokenizer(["▁", *"adehjmnorstñ"])


def texts(speller: Speller, *words: str) -> list[str | None]:
    spelt = speller.spell(words)
    return [" ".join(part.text for part in spelt[word]) if word in spelt else None for word in words]


def test_marks_and_case():
    typed = ["don’t", "Don't", "St.", "john", "(John)", "café", "well-known", "“Saint!”", "U.S.", "3rd"]
    written = ["DON'T", "DON'T", "SAINT", "JOHN", "JOHN", "CAFE", "WELL KNOWN", "SAINT", "US", "THIRD"]
    assert texts(Speller(PHONES), *typed) == written


def test_a_word_that_nothing_writes():
    assert texts(Speller(PHONES), "", "***", "ДОМ", "COVID") == [None] * 4


def test_other_units_and_their_case():
    assert texts(Speller(UPPER), "John", "Señor") == ["JOHN", "SENOR"]
    assert texts(Speller(LOWER), "JOHN", "señor") == ["john", "señor"]


def test_guesses_are_asked_for_at_once():
    asked = []

    def guess(words):
        asked.append(list(words))
        return {"COVID": [("T", "AH")], "STRANGE": [("ZH",)]}

    speller = Speller(PHONES, guess)
    assert texts(speller, "Covid-19", "COVID", "GPT4", "Strange", "JOHN") == [
        "COVID NINETEEN",
        "COVID",
        "GPT FOUR",
        None,
        "JOHN",
    ]
    assert asked == [["COVID", "GPT", "STRANGE"]]
    (covid, nineteen), (gpt, _) = (speller.spell([word])[word] for word in ("covid-19", "GPT4"))
    assert covid.ways == [PHONES.units_of(("T", "AH"))]
    assert nineteen.ways == PHONES.spellings("NINETEEN")
    assert gpt.ways == [PHONES.units_of(("AH", "T") * 3)]  # it has no vowel: by the names of its letters


def test_units_that_spell_ask_for_no_guess():
    assert texts(Speller(UPPER, lambda words: pytest.fail("asked")), "ZZ") == [None]
