"""Tokenizers: one numbering of ids, exact round trips, text that only grows."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.errors import UserError
from samba_asr.text.tokenizer import BLANK_ID, UNK_ID, BpeTokenizer, CharTokenizer, load_tokenizer, train_tokenizer

TEXTS = ["THE CAT SAT ON THE MAT", "THAT CAT'S HAT", "A MAT THAT SAT", "ON AND ON THEY SAT", "BEFORE IT ZED QUICKLY"]
ALPHABET = sorted(set("".join(TEXTS)))
words = st.text(alphabet=ALPHABET, max_size=40)


@pytest.fixture(scope="module", params=["char", "bpe"])
def tokenizer(request, tmp_path_factory):
    return train_tokenizer(TEXTS, request.param, {"char": None, "bpe": 40}[request.param], tmp_path_factory.mktemp("t"))


def test_ids_0_and_1_are_blank_and_unknown(tokenizer):
    assert tokenizer.pieces([0, 1]) == ["<blk>", "<unk>"]
    assert tokenizer.decode([BLANK_ID]) == ""
    assert tokenizer.decode([UNK_ID]) == "⁇"
    assert len(set(tokenizer.pieces(range(tokenizer.vocab_size)))) == tokenizer.vocab_size


@given(text=words)
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == " ".join(text.split())
    assert all(UNK_ID < i < tokenizer.vocab_size for i in ids)


@given(ids=st.lists(st.integers(0, 23), max_size=20), cut=st.integers(0, 20))
def test_text_of_a_prefix_is_a_prefix_of_the_text(tokenizer, ids, cut):
    assert tokenizer.decode(ids).startswith(tokenizer.decode(ids[:cut]))


def test_blanks_are_dropped_anywhere(tokenizer):
    ids = tokenizer.encode("THE CAT")
    assert tokenizer.decode([0, *(i for pair in zip(ids, [0] * len(ids), strict=True) for i in pair)]) == "THE CAT"


def test_empty_text(tokenizer):
    assert tokenizer.encode("") == tokenizer.encode(" \t\n") == []
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("text", ["THE c4T", "<blk>", "<unk>", "日本", "THE\u3000CAT É"])
def test_what_was_never_seen_is_unknown_never_blank(tokenizer, text):
    ids = tokenizer.encode(text)
    assert UNK_ID in ids
    assert BLANK_ID not in ids
    assert "⁇" in tokenizer.decode(ids)


def test_an_unknown_character_does_not_split_its_word(tokenizer):
    assert tokenizer.decode(tokenizer.encode("THE C4T SAT")) == "THE C⁇T SAT"


@pytest.mark.parametrize("bad", [-1, 10**6])
def test_ids_outside_the_vocabulary_are_an_error(tokenizer, bad):
    with pytest.raises(IndexError, match=f"token id {bad} is outside 0"):
        tokenizer.decode([bad])


def test_save_load_pickle(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "model")
    for copy in (load_tokenizer(tmp_path / "model"), pickle.loads(pickle.dumps(tokenizer))):
        assert copy.vocab_size == tokenizer.vocab_size
        assert copy.encode("THE CAT") == tokenizer.encode("THE CAT")
        assert copy.decode([5, 6, 7]) == tokenizer.decode([5, 6, 7])


def test_training_is_deterministic():
    assert BpeTokenizer.train(TEXTS, 40)._model == BpeTokenizer.train(TEXTS, 40)._model


def test_char_units_are_sorted_after_the_space():
    assert CharTokenizer.train(["b a", "c"]).pieces(range(6)) == ["<blk>", "<unk>", "▁", "a", "b", "c"]


def test_char_vocab_size_leaves_out_the_rarest():
    tokenizer = CharTokenizer.train(["aaa bb c"], vocab_size=5)
    assert tokenizer.vocab_size == 5
    assert tokenizer.decode(tokenizer.encode("a b c")) == "a b ⁇"


def test_bpe_has_exactly_the_size_asked_for():
    assert BpeTokenizer.train(TEXTS, 40).vocab_size == 40


def test_a_long_line_is_not_dropped():
    assert UNK_ID not in BpeTokenizer.train(["A B", "C " * 5000], 6).encode("C")


@pytest.mark.parametrize(
    ("kind", "size", "texts", "message"),
    [
        ("bpe", 5000, TEXTS, "more than the text supports: at most [0-9]+"),
        ("bpe", 10, TEXTS, "too small: the text has 22 characters"),
        ("bpe", None, TEXTS, "needs a vocab_size"),
        ("bpe", 40, ["", " "], "text is empty"),
        ("char", None, [], "text is empty"),
        ("char", 3, TEXTS, "leaves no characters"),
        ("phones", 40, TEXTS, "unknown tokenizer kind 'phones'"),
    ],
)
def test_bad_orders_say_what_to_do(kind, size, texts, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train_tokenizer(texts, kind, size, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bad_folders(tmp_path, capfd):
    with pytest.raises(UserError, match="is this a model folder"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"type": "phones", "units": []}')
    with pytest.raises(UserError, match="type 'phones'"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("not json")
    with pytest.raises(UserError, match=r"tokenizer.json: not a character tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"tokenizer\.model and tokenizer\.json are here"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    for nonsense in (b"nonsense", b""):
        (tmp_path / "tokenizer.model").write_bytes(nonsense)
        with pytest.raises(UserError, match="not a sentencepiece model"):
            load_tokenizer(tmp_path)
    assert capfd.readouterr().err == ""  # nor does sentencepiece say anything by itself


def test_a_foreign_sentencepiece_model_is_refused(tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=40,
        minloglevel=2,
    )
    with pytest.raises(UserError, match=r"ids 0 and 1 = \['<unk>', '<s>'\]"):
        load_tokenizer(tmp_path)
