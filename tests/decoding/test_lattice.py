"""Word lattices against all of their paths: what they keep, what they score, and what they say about a word."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.decoding.base import stack, take
from samba_asr.decoding.confidence import Evidence
from samba_asr.decoding.guide import Guides
from samba_asr.decoding.hotwords import HotwordGuide, Hotwords
from samba_asr.decoding.lattice import Lattice
from samba_asr.decoding.lattice_files import render
from samba_asr.decoding.posteriors import Alternative, alternatives, best_path, most, oracle, posteriors
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.decoding.transcript import Segment, Word, WrittenWord
from samba_asr.decoding.words import WordGuide
from samba_asr.formats import Style
from samba_asr.formats import render as render_result
from samba_asr.metrics.wer import score
from samba_asr.result import Result
from tests.decoding.toys import CHARS, PHONES, model
from tests.support.lattice import found, paths
from tests.support.search import frames

T = 12


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return model(tmp_path_factory.mktemp("lm"))


GUIDED = pytest.mark.parametrize(("tokenizer", "v"), [(CHARS, 5), (PHONES, 6)], ids=["char", "phone"])


@GUIDED
@given(seed=st.integers(0, 10**6), recombine=st.sampled_from([1, 2]), phrase=st.sampled_from(["", "b a", "ab b"]))
@settings(max_examples=15, deadline=None)
def test_every_hypothesis_is_a_path_with_its_scores(lm, tokenizer, v, seed, recombine, phrase):
    guide = Guides([WordGuide(tokenizer, lm, weight=0.8, bonus=0.7), HotwordGuide()])
    search = PrefixBeam(6, guide=guide, recombine=recombine, lattice=6.0)
    hotwords = Hotwords(tokenizer, {phrase: 1.0}) if phrase else None
    state, lattice = found(search, frames(seed, 1, T, v)[0].numpy(), hotwords)
    ways = paths(lattice)
    for k in np.flatnonzero(np.logaddexp(state.pb[0], state.pn[0]) > -np.inf):
        words, reading = [], state.reading[0, k]
        while reading is not None:
            words.insert(0, reading.word)
            reading = reading.before
        viterbi = max(state.vb[0, k], state.vn[0, k])
        same = [(a, g) for text, a, g, _ in ways if list(text) == words]
        assert any(abs(g - state.bonus[0, k]) < 1e-9 and a > viterbi - 1e-9 for a, g in same)
    assert (lattice.times[lattice.start] < lattice.times[lattice.end]).all()
    assert (np.diff(lattice.start) >= 0).all()
    assert lattice.times[0] == 0
    assert lattice.times[-1] == T


def test_what_recombination_dropped_is_a_path(lm):
    """A or B, and then what sounds the same after both: one of them is dropped long before the end."""
    pieces = {"▁": 2, "a": 3, "b": 4}
    x = np.full((10, 5), 0.001)
    x[:, 0] = 1.0
    x[1] = [0.001, 0.001, 0.001, 0.6, 0.4]  # a or b
    for at, unit in enumerate("▁a▁ab", 2):
        x[at, pieces[unit]] = 1e6
    x = np.log(x / x.sum(axis=1, keepdims=True))
    model_of_words = type(lm)(list(lm.ids), lm.grams[:1])  # unigrams: the future does not know the first word
    search = PrefixBeam(4, guide=WordGuide(CHARS, model_of_words, weight=1.0, bonus=0.0), recombine=1, lattice=8.0)
    state, lattice = found(search, x)
    texts = [CHARS.decode(h.tokens).split() for h in search.hypotheses(state, 9)[0]]
    assert ["a", "a", "ab"] in texts
    assert ["b", "a", "ab"] not in texts
    assert oracle(lattice, ["b", "a", "ab"]) == 0
    ways = {words: (a, g) for words, a, g, _ in paths(lattice)}
    one, other = ways["a", "a", "ab"], ways["b", "a", "ab"]
    assert one[0] - other[0] == pytest.approx(math.log(0.6 / 0.4))  # the same alignment but for that unit
    assert one[1] - other[1] == pytest.approx(math.log(10) * (0.8 - 0.5))


@GUIDED
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_hypotheses_are_the_same_without_it_and_rows_and_chunks_do_not_matter(lm, tokenizer, v, seed):
    guide, x = WordGuide(tokenizer, lm, weight=0.8, bonus=0.7), frames(seed, 2, T, v).numpy()
    plain = PrefixBeam(5, guide=guide, recombine=1)
    search = PrefixBeam(5, guide=guide, recombine=1, lattice=5.0)
    n, cut = np.array([T, T - 3]), seed % T
    whole = search.finish(search.step(x, n, search.init_state(2)))
    assert search.hypotheses(whole, 9) == plain.hypotheses(plain.finish(plain.step(x, n, plain.init_state(2))), 9)
    assert plain.lattices(plain.finish(plain.init_state(2))) == [None, None]
    state = search.step(x[:, :cut], np.minimum(cut, n), search.init_state(2))
    state = stack([take(state, [0]), take(state, [1])])
    state = search.finish(search.step(x[:, cut:], np.maximum(n - cut, 0), state))
    for one, other in zip(search.lattices(state), search.lattices(whole), strict=True):
        assert all(list(a) == list(b) for a, b in zip(one, other, strict=True))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_posteriors_best_path_and_oracle_are_those_of_all_paths(lm, seed):
    search = PrefixBeam(4, guide=WordGuide(PHONES, lm, weight=0.8, bonus=0.7), recombine=1, lattice=4.0)
    state, lattice = found(search, frames(seed, 1, 8, 6)[0].numpy())
    ways = paths(lattice)
    for scale, shares in zip((1.0, 0.5), posteriors(lattice, (1.0, 0.5)), strict=True):
        worth = np.array([math.exp(scale * (a + g)) for _, a, g, _ in ways])
        expected = np.zeros(len(lattice.start))
        for share, (*_, arcs) in zip(worth / worth.sum(), ways, strict=True):
            expected[list(arcs)] += share
        assert shares == pytest.approx(expected)
    best = max(ways, key=lambda way: way[1] + way[2])
    total = sum(lattice.acoustic[arc] + lattice.lm[arc] for arc in best_path(lattice))
    assert total == pytest.approx(best[1] + best[2])
    for text in (["a", "b"], ["ab"], ["b", "b", "a"], ["a", "zebra"]):
        errors = [score({"x": " ".join(text)}, {"x": " ".join(words)}).counts.errors for words, *_ in ways]
        assert oracle(lattice, text) == min(errors)
        nbest = search.hypotheses(state, 4)[0]
        assert oracle(lattice, text) <= min(
            score({"x": " ".join(text)}, {"x": " ".join(h.words)}).counts.errors for h in nbest
        )


def by_hand() -> Lattice:
    """A (0 to 4) or B (0 to 5), then C to 9: A twice as likely at scale 1."""
    arcs = [(0, 1, 0, math.log(2)), (0, 2, 1, 0.0), (1, 3, 2, 0.0), (2, 3, 2, 0.0)]
    start, end, word, acoustic = map(np.array, zip(*arcs, strict=True))
    return Lattice(np.array([0, 4, 5, 9]), start, end, word, acoustic, np.zeros(4), ("A", "B", "IT'S"))


def test_a_word_and_its_alternatives():
    shares = posteriors(by_hand(), [1.0])[0]
    assert shares == pytest.approx([2 / 3, 1 / 3, 2 / 3, 1 / 3])
    assert most(by_hand(), shares, "A", 0, 4) == pytest.approx(2 / 3)
    assert most(by_hand(), shares, "IT'S", 4, 9) == pytest.approx(1)  # in the frames that both arcs have
    assert most(by_hand(), shares, "IT'S", 4, 5) == pytest.approx(2 / 3)
    (other,) = alternatives(by_hand(), shares, "A", 0, 4, 0.9, 3)
    assert other.entry() == {"text": "B", "confidence": 0.1}
    assert alternatives(by_hand(), shares, "A", 0, 4, 0.9, 0) == ()
    assert alternatives(by_hand(), shares, "IT'S", 5, 9, 0.9, 3) == ()


def test_words_with_alternatives_as_json():
    others = (Alternative("B", 0.3), Alternative("C", 0.1))
    word = Word("A", 0.0, 0.5, 0.6, Evidence(-0.1, 1.0), others)
    assert "alternatives" not in word.entry()
    assert word.entry(1)["alternatives"] == [{"text": "B", "confidence": 0.3}]
    assert [other["text"] for other in WrittenWord("a,", 0.0, 0.5, 0.6, (word,)).entry(9)["alternatives"]] == ["b", "c"]
    assert "alternatives" not in WrittenWord("12", 0.0, 0.5, 0.6, (word, word)).entry(9)
    segment = Segment("A", 0.0, 0.5, (word,), 1.0)
    shown = json.loads(render_result(Result((segment,), 1.0), "x", "json", Style(alternatives=2)))
    assert shown["words"] == [word.entry(2)]


def test_files():
    found = json.loads(render(by_hand(), "u1", "json", 0.04))
    assert found["times"] == [0.0, 0.16, 0.2, 0.36]
    assert found["arcs"][1] | {"posterior": 0} == {
        "from": 0,
        "to": 2,
        "word": "B",
        "acoustic": 0.0,
        "lm": 0.0,
        "posterior": 0,
    }
    lines = render(by_hand(), "u 1", "htk", 0.04).splitlines()
    assert lines[:5] == ["VERSION=1.0", 'UTTERANCE="u 1"', "base=2.718281828", "start=0 end=3", "N=4 L=4"]
    assert lines[5:7] == ["I=0 t=0.000", "I=1 t=0.160"]
    assert lines[-1] == 'J=3 S=2 E=3 W="IT\'S" a=0.0000 l=0.0000'
