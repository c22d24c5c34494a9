"""Hotwords against their definition: the worth of the phrases that a text holds as whole words."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.decoding.base import stack
from samba_asr.decoding.guide import Guides
from samba_asr.decoding.hotwords import HotwordGuide, Hotwords, parse, read
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.decoding.words import WordGuide
from samba_asr.errors import UserError
from samba_asr.text.tokenizer import CharTokenizer
from tests.decoding.toys import CHARS, PHONES, model
from tests.support.search import frames

GUIDE = HotwordGuide()
SPACE, A, B = 2, 3, 4


def worth(hotwords: Hotwords, tokens, finish: bool = True) -> float:
    view = GUIDE.start(hotwords)
    for token in tokens:
        view = GUIDE.extend([view], [token]).view(0)
    return GUIDE.finish([view])[0].bonus if finish else view.bonus


def one(phrase: str, weight: float = 1.0) -> Hotwords:
    return Hotwords(CHARS, {phrase: weight})


TEXTS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "abb"]), max_size=8)


@given(words=TEXTS, phrase=st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_a_text_is_worth_its_phrases(words, phrase):
    """Of occurrences that overlap some may count, too: at least those that do not, at most all."""
    n = len(phrase)
    places = [i for i in range(len(words) - n + 1) if words[i : i + n] == phrase]
    apart, until = 0, 0
    for i in places:
        if i >= until:
            apart, until = apart + 1, i + n
    units = len(CHARS.spellings(phrase[0])[0]) + sum(len(CHARS.spellings(w)[0]) for w in phrase[1:])
    found = worth(one(" ".join(phrase)), CHARS.encode(" ".join(words)))
    assert apart * units <= found <= len(places) * units


@given(
    words=TEXTS,
    phrases=st.dictionaries(st.sampled_from(["a", "ab", "b a", "a b b", "ab ab"]), st.floats(0.5, 3), min_size=1),
)
@settings(max_examples=100, deadline=None)
def test_every_view_is_that_of_its_prefix(words, phrases):
    """The score of an incomplete phrase is taken back: at the end only whole phrases count."""
    hotwords, tokens = Hotwords(CHARS, phrases), CHARS.encode(" ".join(words))
    total = worth(hotwords, tokens)
    if not any(f" {p} " in f" {' '.join(words)} " for p in phrases):
        assert total == 0
    else:
        assert total > 0


def test_each_unit_counts_at_once_and_is_taken_back():
    tokens = CHARS.encode("b ab")
    hotwords = one("b aa", 2.0)  # ▁ b ▁ a a
    # A text begins without its space, which is worth something all the same.
    assert [worth(hotwords, tokens[:n], finish=False) for n in range(len(tokens) + 1)] == [2, 4, 6, 8, 0]
    assert worth(hotwords, CHARS.encode("b aa")) == 10
    assert worth(hotwords, CHARS.encode("b aab")) == worth(hotwords, CHARS.encode("ab aa")) == 0


def test_a_phrase_inside_another():
    hotwords = Hotwords(CHARS, {"a b": 1.0, "b": 1.0, "b b a": 1.0})
    assert worth(hotwords, CHARS.encode("a b")) == 4
    assert worth(hotwords, CHARS.encode("b b")) == 2 + 2
    assert worth(hotwords, CHARS.encode("ab b a")) == 2
    assert worth(hotwords, CHARS.encode("b b a")) == 6


def test_what_is_avoided_costs():
    assert worth(one("ab", -2.0), CHARS.encode("ab")) == -6
    assert worth(one("ab", -2.0), CHARS.encode("aa")) == 0


class TestSearch:
    def recognised(self, search, x, hotwords=None) -> str:
        state = search.step(x[None], torch.tensor([len(x)]), search.init_state(1, hotwords))
        return CHARS.decode(search.hypotheses(search.finish(state))[0][0].tokens)

    def test_a_doubtful_word_becomes_the_expected_one(self):
        x = torch.full((3, 5), -9.0)
        x[0, A], x[1, 0], x[2, [A, B]] = -0.01, -0.01, torch.tensor([-0.3, -1.3])
        search = PrefixBeam(4, guide=GUIDE)
        assert self.recognised(search, x) == "aa"
        assert self.recognised(search, x, one("ab", 0.5)) == "ab"
        assert self.recognised(search, x, one("abb", 0.5)) == "aa"

    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=30, deadline=None)
    def test_sessions_with_and_without_share_a_batch(self, seed):
        x, lengths = frames(seed, 3), torch.tensor([9, 9, 9])
        search = PrefixBeam(4, guide=GUIDE)
        some = [None, one("ab", 2.0), one("b b", 2.0)]
        state = search.step(x, lengths, stack([search.init_state(1, h) for h in some]))
        together = search.hypotheses(search.finish(state), nbest=4)
        plain = PrefixBeam(4)
        for row, h in enumerate(some):
            alone = search.step(x[row : row + 1], lengths[:1], search.init_state(1, h))
            assert together[row] == search.hypotheses(search.finish(alone), nbest=4)[0]
        unguided = plain.step(x[:1], lengths[:1], plain.init_state(1))
        assert together[0] == plain.hypotheses(unguided, nbest=4)[0]

    @pytest.mark.parametrize("tokenizer", [CHARS, PHONES], ids=["char", "phone"])
    def test_with_a_language_model_a_word_that_it_lacks_can_be_said(self, tmp_path, tokenizer):
        words = WordGuide(tokenizer, model(tmp_path), ["a"], weight=0.5, bonus=0.0)
        search = PrefixBeam(16, guide=Guides([words, GUIDE]))
        x = torch.full((3, tokenizer.vocab_size), -6.0)
        pieces = tokenizer.pieces(range(tokenizer.vocab_size))
        said = ["a", "<blk>", "b"] if tokenizer is CHARS else ["▁A", "<blk>", "B"]
        x[range(3), [pieces.index(piece) for piece in said]] = -0.01
        x[2, 0] = -3.0

        def best(hotwords):
            state = search.step(x[None], torch.tensor([3]), search.init_state(1, hotwords))
            h = search.hypotheses(search.finish(state))[0][0]
            return h.words if h.words is not None else tuple(tokenizer.decode(h.tokens).split())

        assert best(None) == ("a",)
        assert best(Hotwords(tokenizer, {"ab": 1.0})) == ("ab",)
        assert best(Hotwords(tokenizer, {"a": 1.0})) == ("a",)


def test_capitals_are_found():
    upper = CharTokenizer(["▁", "A", "B"])
    assert worth(Hotwords(upper, {"Ab": 1.0}), upper.encode("AB")) == 3


def test_phrases_that_cannot_be_written_are_all_named_and_the_others_count(caplog):
    hotwords = Hotwords(CHARS, {"c": 1, "ab": 1, "a z": 1, "": 1})
    assert list(hotwords.unusable) == ["c", "a z", ""]
    for said in ("'c' is left out: this model cannot write 'c'", "'a z' is left out", "'' is left out: it is empty"):
        assert said in caplog.text
    assert worth(hotwords, CHARS.encode("ab")) == 3
    assert worth(hotwords, CHARS.encode("a")) == 0


class TestPhones:
    """Words that the lexicon of a phone model lacks."""

    def test_a_guess(self):
        hotwords = Hotwords(PHONES, {"bab": 1.0, "zz": 1.0, "a": 1.0}, lambda words: {"bab": [("B", "A", "B")]})
        assert hotwords.words["bab"] == [PHONES.units_of(("B", "A", "B"))]
        assert worth(hotwords, PHONES.units_of(("B", "A", "B"))) == 3
        assert list(hotwords.unusable) == ["zz"]

    def test_a_pronunciation_given(self, caplog):
        (phrase,) = parse(["bab = b a1 b :2"], 1.0)
        hotwords = Hotwords(PHONES, {phrase: 2.0, "x = Q": 1.0, "a b = A B": 1.0}, lambda words: {})
        assert worth(hotwords, PHONES.units_of(("B", "A", "B"))) == 6
        assert hotwords.pronounced == {"bab"}
        assert "'x = Q' is left out: unknown phones Q: use A, B" in caplog.text
        assert "'a b = A B' is left out: write WORD = PHONE PHONE ..., with one word" in caplog.text
        assert "give the word without a pronunciation" in Hotwords(CHARS, {"ab = A B": 1.0}).unusable["ab = A B"]

    def test_a_known_word_may_be_said_otherwise(self, tmp_path):
        words = WordGuide(PHONES, model(tmp_path), ["a", "ab"], weight=0.5, bonus=0.0)
        search = PrefixBeam(16, guide=Guides([words, GUIDE]))
        x = torch.full((4, PHONES.vocab_size), -9.0)
        pieces = PHONES.pieces(range(PHONES.vocab_size))
        x[range(4), [pieces.index(piece) for piece in ("▁B", "<blk>", "B", "<blk>")]] = -0.01

        def best(hotwords):
            state = search.step(x[None], torch.tensor([4]), search.init_state(1, hotwords))
            return search.hypotheses(search.finish(state))[0][0].words

        assert best(Hotwords(PHONES, {"ab": 2.0})) != ("ab",)
        assert best(Hotwords(PHONES, {"ab = B B": 2.0})) == ("ab",)

    def test_an_unknown_word_costs_no_more_than_a_rare_one(self, tmp_path):
        from samba_asr.decoding.ngram import read_ngram
        from tests.decoding.toys import ARPA, write_arpa

        lm = read_ngram(write_arpa(tmp_path, ARPA.replace("-2.0\t<unk>", "-99\t<unk>")))
        words = WordGuide(PHONES, lm, ["a"], weight=1.0, bonus=0.0)
        view = words.start(Hotwords(PHONES, {"bab": 1.0}, lambda words: {"bab": [("B", "A", "B")]}))
        for token in PHONES.units_of(("B", "A", "B")):
            ways = words.extend([view], [token])
            view = ways.view(len(ways.of) - 1)
        assert view.bonus == -15
        assert -18 < words.finish([view])[0].bonus < -15


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 21, -21, "3", None])
def test_weights_have_bounds(weight):
    with pytest.raises(UserError, match="must be from -20 to 20 nats a unit"):
        one("a", weight)


def test_a_file_of_phrases(tmp_path):
    (tmp_path / "h.txt").write_text("# names\n\nANNE  BRONTE :3\n  KEATS\nX:-1.5\n")
    assert read(tmp_path / "h.txt", 2.0) == {"ANNE BRONTE": 3.0, "KEATS": 2.0, "X": -1.5}
    with pytest.raises(UserError, match="cannot read the hotwords"):
        read(tmp_path / "none", 1.0)
    for bad in (":3", "A :B", "A :1e9"):
        with pytest.raises(UserError, match="write PHRASE or"):
            parse([bad], 1.0)


def test_every_pronunciation_counts():
    hotwords = Hotwords(PHONES, {"b": 1.0})  # said A or B
    for way in PHONES.spellings("b"):
        assert worth(hotwords, way) == 1


class TestCredit:
    """The score of an incomplete phrase keeps it in the search; it drops nothing else."""

    def said(self, text: str) -> torch.Tensor:
        """Frames (t, v) that say it: each unit, then blank.  To miss or mistake a letter costs 9 nats; a space is certain."""
        units = [unit for token in CHARS.encode(text) for unit in (token, 0)]
        x = torch.full((len(units), CHARS.vocab_size), -9.0)
        x[:, SPACE] = -200.0
        x[range(len(units)), units] = -0.01
        return x

    def recognised(self, x, hotwords, beam=4) -> str:
        search = PrefixBeam(beam, prune=7.0, guide=GUIDE)
        state = search.step(x[None], torch.tensor([len(x)]), search.init_state(1, hotwords))
        return CHARS.decode(search.hypotheses(search.finish(state))[0][0].tokens)

    @pytest.mark.parametrize("beam", [1, 4, 16])
    @pytest.mark.parametrize("weight", [0.5, 1.5, 3.0, -3.0, -20.0])
    @pytest.mark.parametrize("phrase", ["ababab", "ab b ababab", "ababab ba ab"])
    def test_a_phrase_that_goes_on_otherwise_swallows_nothing(self, beam, weight, phrase):
        text = "ab b abababaabaa ab a b aa ba"
        assert self.recognised(self.said(text), one(phrase, weight), beam) == text

    def test_it_is_found_where_it_is_said(self):
        x = self.said("b abab ba")
        x[4, [A, B]], x[6, [A, B]] = torch.tensor([-1.2, -0.4]), torch.tensor([-0.4, -1.2])  # doubtful: bbab or baab
        assert self.recognised(x, None) != "b abab ba"
        assert self.recognised(x, one("abab", 1.5)) == "b abab ba"

    def test_credit_is_what_may_be_taken_back(self):
        hotwords, tokens = Hotwords(CHARS, {"b aa": 2.0, "b": 1.0}), CHARS.encode("b aab")
        view, credits = GUIDE.start(hotwords), []
        for token in tokens:
            view = GUIDE.extend([view], [token]).view(0)
            credits.append(view.credit)
        assert credits == [4, 4, 6, 8, 0]  # from the space on, 2 of its 6 are those of b, which is over
        assert GUIDE.finish([view])[0].credit == 0
        assert view.bonus == 2

    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=20, deadline=None)
    def test_weight_0_is_as_if_there_were_none(self, seed, tmp_path_factory):
        words = WordGuide(CHARS, model(tmp_path_factory.mktemp("lm")), ["a", "ab"], weight=0.5, bonus=0.0)
        x, lengths = frames(seed, 1), torch.tensor([9])
        for guide in (GUIDE, Guides([words, GUIDE])):
            search = PrefixBeam(4, guide=guide, recombine=1)
            found = [
                search.hypotheses(search.finish(search.step(x, lengths, search.init_state(1, h))), nbest=4)
                for h in (None, Hotwords(CHARS, {"b": 0.0, "ab": 0, "cannot be written": 0}))
            ]
            assert found[0] == found[1]
