"""Mixtures of n-gram models, against the sum that defines them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.decoding.mixture import best_weights, mixed, of_text, perplexity
from samba_asr.decoding.ngram import FLOOR, NgramModel
from samba_asr.decoding.packed import Grams
from samba_asr.errors import UserError

WORDS = ("<s>", "</s>", "a", "b", "c", "d")


@st.composite
def models(draw, most: int = 3) -> NgramModel:
    """A model whose words sum to 1 in every context.  It may lack words; each context has n-grams with some of them."""
    words = list(WORDS[:3]) + draw(st.lists(st.sampled_from(WORDS[3:]), unique=True))
    numbers = st.integers(1, 9)
    known: dict[tuple[int, ...], tuple[float, float]] = {(0,): (FLOOR, 0.0)}  # <s> is never said
    worth = [draw(numbers) for _ in words[1:]]
    known |= {(i,): (math.log(w / sum(worth)), 0.0) for i, w in enumerate(worth, 1)}
    grams = [_table(known)]
    for m in range(2, draw(st.integers(1, most)) + 1):
        longer: dict[tuple[int, ...], tuple[float, float]] = {}
        for context in draw(st.lists(st.sampled_from(sorted(known)), unique=True, max_size=3)):
            some = draw(
                st.lists(st.integers(1, len(words) - 1), min_size=1, max_size=min(2, len(words) - 2), unique=True)
            )
            worth = [draw(numbers) for _ in some]
            lower = NgramModel(words, grams).log_prob(np.array([(*context[1:], i) for i in some]))
            rest = draw(numbers)
            longer |= {
                (*context, i): (math.log(w / (sum(worth) + rest)), 0.0) for i, w in zip(some, worth, strict=True)
            }
            known[context] = (
                known[context][0],
                math.log(rest / (sum(worth) + rest)) - math.log(1 - np.exp(lower).sum()),
            )
        grams[-1] = _table(known)
        known = longer
        grams.append(_table(known, m))
        if not known:
            break
    return NgramModel(words, grams)


def _table(known: dict[tuple[int, ...], tuple[float, float]], m: int = 1) -> Grams:
    values = np.array(list(known.values()), np.float32).reshape(-1, 2)
    return Grams(np.array(list(known), np.int32).reshape(len(known), -1 if known else m), values[:, 0], values[:, 1])


def p(model: NgramModel, words: tuple[str, ...]) -> float:
    return math.exp(model.log_prob(np.array([[model.ids.get(word, -1) for word in words]]))[0])


CONTEXTS = [(), *itertools.product(WORDS), *itertools.product(WORDS, repeat=2)]


@given(first=models(), second=models(), weight=st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=40)
def test_what_a_model_has_is_the_weighted_sum_and_all_words_have_1(first, second, weight):
    both = NgramModel(*mixed([first, second], [weight, 1 - weight]))
    for model in (first, second):
        names = list(model.ids)
        for row in itertools.chain(*(grams.words.tolist() for grams in model.grams)):
            gram = tuple(names[i] for i in row)
            assert p(both, gram) == pytest.approx(weight * p(first, gram) + (1 - weight) * p(second, gram), rel=1e-4)
    for context in CONTEXTS:
        assert sum(p(both, (*context, word)) for word in WORDS[1:]) == pytest.approx(1, abs=1e-4)


@given(model=models(), weight=st.floats(0, 1))
@settings(deadline=None, max_examples=20)
def test_a_model_with_itself_is_itself(model, weight):
    same = NgramModel(*mixed([model, model], [weight, 1 - weight]))
    for context in CONTEXTS:
        for word in WORDS[1:]:
            assert p(same, (*context, word)) == pytest.approx(p(model, (*context, word)), rel=1e-4, abs=1e-9)


def unigrams(**probabilities: float) -> NgramModel:
    known = {(i,): (math.log(value), 0.0) for i, value in enumerate(probabilities.values())}
    return NgramModel(["</s>" if word == "end" else word for word in probabilities], [_table(known)])


def test_the_best_weights_are_those_of_the_text():
    """Of a text of which a quarter is `b`, which the first model never says; `d` no model knows."""
    first, second = unigrams(end=0.25, a=0.75), unigrams(end=0.25, b=0.75)
    found = of_text([first, second], ["a a d b"])
    np.testing.assert_allclose(found, [[0.75, 0], [0.75, 0], [0, 0.75], [0.25, 0.25]], atol=1e-6)
    weights = best_weights(found)
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3], atol=1e-3)
    assert perplexity(found @ weights) == pytest.approx((0.5 * 0.5 * 0.25 * 0.25) ** -0.25, rel=1e-3)
    assert perplexity(found[:, 0]) == math.inf


@given(models_=st.lists(models(), min_size=2, max_size=3), said=st.lists(st.sampled_from("ab"), min_size=1, max_size=9))
@settings(deadline=None, max_examples=30)
def test_no_other_weights_make_the_text_likelier(models_, said):
    found = of_text(models_, [" ".join(["a", *said])])
    best = perplexity(found @ best_weights(found))
    for weights in itertools.product(range(4), repeat=len(models_)):
        if sum(weights):
            assert best <= perplexity(found @ (np.array(weights) / sum(weights))) * (1 + 1e-3)


def test_a_word_that_no_model_allows_leaves_weights():
    """`b` after `a a` costs an impossible back-off three times, and is impossible itself."""
    never = (FLOOR, FLOOR)
    tables = [_table({(0,): (-1.0, 0.0), (1,): (-1.0, FLOOR), (2,): never})]
    tables += [_table({(1,) * m: never}) for m in (2, 3)] + [_table({(1,) * 4: never})]
    found = of_text([NgramModel(["</s>", "a", "b"], tables)] * 2, ["a a a b"])
    np.testing.assert_allclose(best_weights(found), [0.5, 0.5])


def test_a_text_of_other_words():
    with pytest.raises(UserError, match="no word that the language models know"):
        of_text([unigrams(end=0.5, a=0.5)], ["x y z", ""])
