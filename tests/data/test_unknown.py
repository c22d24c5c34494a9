"""Words that a tokenizer cannot write: a few are named, too many stop a run, and another case is understood."""

from __future__ import annotations

import pytest

from samba_asr.data.manifest import Utterance
from samba_asr.data.unknown import check_known, in_the_case_of, unknown_words
from samba_asr.errors import UserError
from samba_asr.text.lexicon import Lexicon
from samba_asr.text.phones import PhoneTokenizer
from samba_asr.text.tokenizer import CharTokenizer
from tests.support.logs import ours

CAPITALS = CharTokenizer.train(["THE QUICK BROWN FOX JUMPS OVER A LAZY DOG"])
PHONES = PhoneTokenizer(Lexicon({"AT": (("AE", "T"),), "TEA": (("T", "IY"),)}))


def said(*texts: str) -> list[Utterance]:
    return [Utterance(str(i), "a.wav", text) for i, text in enumerate(texts)]


def test_unknown_words_are_counted():
    unknown = unknown_words(["THE fox", "fox 9"], CAPITALS)
    assert (unknown.words, unknown.total, unknown.share) == ({"fox": 2, "9": 1}, 4, 0.75)
    assert unknown.names == "fox, 9"


@pytest.mark.parametrize("tokenizer", [CAPITALS, PHONES], ids=["char", "phone"])
def test_texts_in_small_letters_are_read_in_capitals(tokenizer, caplog):
    speech, valid = in_the_case_of(tokenizer, said("at tea", "Tea at nine"), said("tea"))
    assert [u.text for u in speech + valid] == ["AT TEA", "TEA AT NINE", "TEA"]
    assert "the model writes capitals" in caplog.text


def test_texts_that_fit_or_that_no_case_helps_stay(caplog):
    for some in (said("THE DOG", "a FOX"), said("привет мир"), said()):
        assert in_the_case_of(CAPITALS, some) == [some]
    assert not ours(caplog)


def test_texts_of_which_hardly_a_word_can_be_written_stop():
    check_known(["THE привет"], CAPITALS)
    with pytest.raises(UserError, match=r"can encode only 0 of the 2 words of the training texts \(not привет, мир\)"):
        check_known(["привет мир"], CAPITALS)
