"""Search over words against every text that there could be."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.config import SearchConfig
from samba_asr.decoding.guide import Guides
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.decoding.words import WordGuide
from samba_asr.errors import UserError
from samba_asr.text.tokenizer import CharTokenizer
from tests.decoding.toys import CHARS, PHONES, model
from tests.support.search import brute_force, frames, katz, offline

WEIGHT, BONUS = 0.8, 0.7


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return model(tmp_path_factory.mktemp("lm"))


def worth(words: tuple[str, ...]) -> float:
    said = ["<s>", *words, "</s>"]
    total = sum(katz(tuple(said[max(0, i - 2) : i]), said[i]) for i in range(1, len(said)))
    return WEIGHT * math.log(10) * total + BONUS * len(words)


def exhaustive(tokenizer, x: torch.Tensor) -> dict[tuple[str, ...], float]:
    """The score of every text of x (t, v), by words: each way to write it is a hypothesis of its own, the best counts."""
    found = {}
    reachable = brute_force(x.numpy())
    known = [word for word in ("a", "b", "ab", "aab") if tokenizer.spellings(word)]
    for n in range(len(x) + 1):
        for words in itertools.product(known, repeat=n):
            for way in itertools.product(*(tokenizer.spellings(word) for word in words)):
                tokens = tuple(i for spelling in way for i in spelling)
                # As characters a text may begin and end with a space, and needs neither.
                ways = [tokens[i:] + end for i in (0, 1) for end in ((), (2,))] if tokenizer is CHARS else [tokens]
                for tokens in ways:
                    if tokens in reachable:
                        found[words] = max(found.get(words, -math.inf), reachable[tokens][0] + worth(words))
    return found


@pytest.mark.parametrize(("tokenizer", "shape"), [(CHARS, (5, 5)), (PHONES, (4, 6))], ids=["char", "phone"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_wide_beam_finds_the_best_text_with_its_score(lm, tokenizer, shape, seed):
    x = frames(seed, 1, *shape, sharpness=1.0)
    expected = exhaustive(tokenizer, x[0])
    guide = WordGuide(tokenizer, lm, weight=WEIGHT, bonus=BONUS)
    found = offline(PrefixBeam(3000, None, 1.0, None, guide), x, [shape[0]])[0]
    text = lambda h: h.words if h.words is not None else tuple(tokenizer.decode(h.tokens).split())  # noqa: E731
    ranked = sorted(expected, key=lambda words: -expected[words])
    assert text(found[0]) == ranked[0]
    for h in found:
        if text(h) in expected:  # the others lack the end of their last word
            assert h.score <= expected[text(h)] + 1e-5  # tables are float32
    assert found[0].score == pytest.approx(expected[ranked[0]])


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_every_text_is_made_of_words(lm, seed):
    guide = WordGuide(CHARS, lm, ["ab", "b"], weight=WEIGHT, bonus=BONUS)
    for h in offline(PrefixBeam(8, guide=guide), frames(seed, 1, 12, 5), [12])[0][:1]:
        assert set(CHARS.decode(h.tokens).split()) <= {"ab", "b"}


def test_a_wider_beam_never_scores_worse(lm):
    for seed in range(30):
        x = frames(seed, 1, 14, 5)
        guide = WordGuide(CHARS, lm, weight=WEIGHT, bonus=BONUS)
        scores = [offline(PrefixBeam(k, None, 1.0, None, guide), x, [14])[0][0].score for k in (64, 256, 1024)]
        assert scores == sorted(scores)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_prefixes_with_the_same_continuations_have_one_recombination_key(lm, seed):
    """And the other way round: prefixes with one recombination key have the same extensions, at the same scores."""
    guide = WordGuide(PHONES, lm, weight=WEIGHT, bonus=BONUS)
    search = PrefixBeam(60, None, 1.0, None, guide)
    state = search.step(frames(seed, 1, 6, PHONES.vocab_size), torch.tensor([6]), search.init_state(1))
    by_key: dict[int, list] = {}
    for view, key in zip(state.guide[0], state.recombination[0].tolist(), strict=True):
        if view is not None and view.node != 0:
            assert view.recombination == key  # the search has the guide's key
            by_key.setdefault(key, []).append(view)
    for first, *others in by_key.values():
        for other in others:
            assert (other.context, other.node) == (first.context, first.node)
            for token in range(1, PHONES.vocab_size):
                one, two = (guide.extend([view], [token]) for view in (first, other))
                assert (one.bonus - first.bonus) == pytest.approx(two.bonus - other.bonus)
                assert one.label.tolist() == two.label.tolist()
                assert one.recombination.tolist() == two.recombination.tolist()
    assert max(map(len, by_key.values())) > 1  # it was tried
    assert len(by_key) == len({(v.context, v.node) for some in by_key.values() for v in some})


def test_recombined_a_narrow_beam_loses_less_to_a_wide_one(lm):
    """Seven words, each of which may be `▁A`, which is two, or `▁B`: 3 ** 7 texts."""
    guide, lost = WordGuide(PHONES, lm, weight=WEIGHT, bonus=BONUS), {None: 0.0, 1: 0.0}
    pieces = PHONES.pieces(range(PHONES.vocab_size))
    for seed in range(20):
        x = torch.full((1, 14, PHONES.vocab_size), -20.0, dtype=torch.float64)
        x[0, 1::2, 0] = 0.0
        x[0, ::2][:, [pieces.index("▁A"), pieces.index("▁B")]] = frames(seed, 1, 7, 2, sharpness=1.0)[0]
        best = offline(PrefixBeam(3000, guide=guide), x, [14])[0][0].score
        for recombine in lost:
            lost[recombine] += best - offline(PrefixBeam(4, guide=guide, recombine=recombine), x, [14])[0][0].score
    assert lost[1] < lost[None] / 2, lost


def test_so_many_rivals_are_left_as_asked_for(lm):
    """`▁A` is two words that sound the same, and which it was at first makes no difference later."""
    a = PHONES.pieces(range(PHONES.vocab_size)).index("▁A")
    x = torch.full((1, 15, PHONES.vocab_size), -20.0)
    x[0, ::2, a] = x[0, 1::2, 0] = 0.0
    guide = WordGuide(PHONES, lm, weight=1.0, bonus=0.0)
    best, beginnings = {}, {}
    for recombine in (1, 8):
        search = PrefixBeam(32, guide=guide, recombine=recombine)
        state = search.finish(search.step(x, torch.tensor([15]), search.init_state(1)))
        whole = [h.words for h in search.hypotheses(state, 32)[0] if len(h.words) == 8]
        best[recombine], beginnings[recombine] = whole[0], len({words[:4] for words in whole})
    assert best[1] == best[8]
    assert beginnings[1] < beginnings[8]


@pytest.mark.parametrize(
    ("beam", "rescore", "nbest", "kept"),
    [(24, 0.3, 1, 1), (64, 0.3, 1, 2), (128, 0.3, 1, 2), (128, 0.0, 1, 1), (24, 0.0, 5, 5), (128, 0.3, 10, 10)],
)
def test_a_second_pass_has_rivals_in_a_roomy_beam_and_who_asks_for_some_gets_them(lm, beam, rescore, nbest, kept):
    guide = WordGuide(PHONES, lm, weight=1.0, bonus=0.0)
    config = SearchConfig(method="beam", beam=beam, nbest=nbest, prune=8.0, rescore=rescore)
    search = PrefixBeam.from_config(config, guide)
    assert (search.beam, search.recombine, search.prune) == (beam, kept, 8.0)
    assert PrefixBeam.from_config(SearchConfig(method="beam", beam=beam), guide, counts_words=False).recombine is None


def test_of_words_that_sound_the_same_the_language_model_chooses(lm):
    """▁A ▁A is `a a`, `a b`, `b a`, `b b`; and `a b` is what texts begin with."""
    x = torch.full((1, 3, PHONES.vocab_size), -20.0)
    a = PHONES.pieces(range(PHONES.vocab_size)).index("▁A")
    x[0, [0, 1, 2], [a, 0, a]] = 0.0
    guide = WordGuide(PHONES, lm, weight=1.0, bonus=0.0)
    best, *others = offline(PrefixBeam(16, guide=guide), x, [3])[0]
    assert best.words == ("a", "b")
    assert all(h.words != best.words for h in others)
    assert len({(h.tokens, h.words) for h in (best, *others)}) == 1 + len(others)


def test_a_partial_text_shows_the_word_that_is_being_said(lm):
    x = torch.full((1, 2, PHONES.vocab_size), -20.0)
    pieces = PHONES.pieces(range(PHONES.vocab_size))
    x[0, [0, 1], [pieces.index("▁A"), pieces.index("B")]] = 0.0
    search = PrefixBeam(4, guide=WordGuide(PHONES, lm, weight=1.0, bonus=0.0))
    state = search.step(x, torch.tensor([1]), search.init_state(1))
    assert search.hypotheses(state)[0][0].words == ("a",)
    state = search.step(x[:, 1:], torch.tensor([1]), state)
    assert search.hypotheses(state)[0][0].words == ("ab",)


def test_other_weights_are_another_guide(lm):
    guide = WordGuide(CHARS, lm, weight=WEIGHT, bonus=BONUS)
    other = guide.weighted(weight=0.0, bonus=0.0)
    x = frames(3, 1, 6, 5)
    plain = offline(PrefixBeam(500, None, 1.0, None, other), x, [6])[0][0]
    assert plain.score == pytest.approx(brute_force(x[0].numpy())[plain.tokens][0])
    again = offline(PrefixBeam(500, None, 1.0, None, guide), x, [6])[0][0]
    assert again.score == pytest.approx(max(exhaustive(CHARS, x[0]).values()))


@pytest.mark.parametrize("room", [1, 1 << 15])
def test_what_a_guide_remembers_of_ends_changes_nothing(lm, monkeypatch, room):
    monkeypatch.setattr("samba_asr.decoding.words.ENDS", room)
    used = WordGuide(PHONES, lm, weight=WEIGHT, bonus=BONUS)
    other = used.weighted(weight=2.0, bonus=0.1)
    for seed in range(6):
        x = frames(seed, 2, 9, 6, sharpness=1.0)
        new = WordGuide(PHONES, lm, weight=WEIGHT, bonus=BONUS)
        for guide, fresh in ((used, new), (other, new.weighted(weight=2.0, bonus=0.1))):
            assert offline(PrefixBeam(16, guide=guide), x, [9, 7]) == offline(PrefixBeam(16, guide=fresh), x, [9, 7])
            assert len(guide.vocabulary.ends) <= room


def test_what_was_asked_once_is_not_asked_again(lm, monkeypatch):
    asked, score = [], lm.score
    monkeypatch.setattr(lm, "score", lambda contexts, words: asked.extend(words) or score(contexts, words))
    guide = WordGuide(PHONES, lm, weight=WEIGHT, bonus=BONUS)
    rounds = []
    for _ in range(2):
        asked.clear()
        offline(PrefixBeam(16, guide=guide), frames(1, 2, 12, 6, sharpness=1.0), [12, 9])
        rounds.append([word for word in asked if word != lm.ids["</s>"]])  # ends of texts are not remembered
    assert rounds[0]
    assert not rounds[1]


def test_guides_add_up(lm):
    """Twice the same guide with half of the weights is the guide."""
    whole, half = (WordGuide(CHARS, lm, weight=w, bonus=w) for w in (0.8, 0.4))
    for seed in range(5):
        x = frames(seed, 1, 9, 5)
        one = offline(PrefixBeam(16, guide=whole), x, [9])[0]
        two = offline(PrefixBeam(16, guide=Guides([half, half])), x, [9])[0]
        assert [h.tokens for h in one] == [h.tokens for h in two]
        assert [h.score for h in one] == pytest.approx([h.score for h in two])


def test_a_language_model_of_another_language_is_refused(lm):
    with pytest.raises(UserError, match="different languages, or of different case"):
        WordGuide(CharTokenizer(["▁", "A", "B"]), lm, weight=1.0, bonus=0.0)
    guide = WordGuide(CHARS, lm, ["a", "b", "cab"], weight=1.0, bonus=0.0)
    assert guide.missing == ["cab"]
