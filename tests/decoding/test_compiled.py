"""The compiled search is the numpy search, bit for bit: any lexicon, n-gram, hotwords, beam and cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.decoding import words as word_search
from samba_asr.decoding.align import align
from samba_asr.decoding.base import stack, take
from samba_asr.decoding.guide import Guides
from samba_asr.decoding.hotwords import HotwordGuide, Hotwords
from samba_asr.decoding.ngram import BEGIN, END, UNKNOWN, NgramModel
from samba_asr.decoding.packed import Grams
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.decoding.words import WordGuide
from samba_asr.errors import UserError
from samba_asr.text.lexicon import Lexicon
from samba_asr.text.phones import PhoneTokenizer
from samba_asr.text.tokenizer import CharTokenizer
from samba_asr.text.units import Tokenizer

pytest.importorskip("numba")
from samba_asr.decoding.compiled import layout
from samba_asr.decoding.compiled.search import CompiledBeam
from samba_asr.decoding.compiled.tables import look_ahead, of_guide

WORDS = ["a", "b", "ab", "ba", "aab", "abb"]
CHARS = CharTokenizer(["▁", "a", "b"])
WEIGHTS = [(0.8, 0.7), (1.0, 0.0), (0.0, 0.0)]


@st.composite
def tokenizers(draw) -> Tokenizer:
    """Characters, or two phones, with which many words sound the same or begin others."""
    if draw(st.booleans()):
        return CHARS
    way = st.lists(st.sampled_from("AB"), min_size=1, max_size=3).map(tuple)
    return PhoneTokenizer(
        Lexicon({word: tuple(draw(st.lists(way, min_size=1, max_size=2, unique=True))) for word in WORDS})
    )


@st.composite
def models(draw) -> NgramModel:
    """N-grams of orders 1 to 4; neither their beginnings nor their ends need be n-grams.  Few values, so that scores tie."""
    words = [*WORDS, *draw(st.sampled_from([(END,), (BEGIN, END), (BEGIN, END, UNKNOWN)]))]
    value = st.integers(-8, 0).map(lambda n: n / 4)
    found = []
    for order in range(1, draw(st.integers(1, 4)) + 1):
        some = [(i,) for i in range(len(words))]
        if order > 1:
            some = draw(st.lists(st.tuples(*[st.integers(0, len(words) - 1)] * order), max_size=12, unique=True))
        numbers = np.array([[draw(value), draw(value)] for _ in some], dtype=np.float32).reshape(-1, 2)
        rows = np.array(some, dtype=np.int32).reshape(-1, order)
        found.append(Grams(rows, numbers[:, 0], numbers[:, 1]))
    return NgramModel(words, found)


@st.composite
def searches(draw) -> dict[str, Any]:
    return {
        "beam": draw(st.sampled_from([1, 2, 3, 5, 8, 16])),
        "candidates": draw(st.sampled_from([1, 3, 10, None])),
        "blank_skip": draw(st.sampled_from([0.7, 0.99, 1.0])),
        "prune": draw(st.sampled_from([1.0, 7.0, None])),
        "recombine": draw(st.sampled_from([None, 1, 2])),
        "lattice": draw(st.sampled_from([None, 1.0, 8.0])),
    }


def drawn_frames(rng: np.random.Generator, b: int, t: int, v: int) -> np.ndarray:
    """(b, t, v) log-probabilities with ties and blanks that are certain, and now and then a unit that is impossible."""
    x = np.round(2 * rng.standard_normal((b, t, v))) / 2
    x[rng.random((b, t)) < 0.2, 0] += 9
    x[rng.random((b, t, v)) < 0.02] = -np.inf
    x[..., 0] = np.maximum(x[..., 0], -20)
    x -= np.log(np.exp(x).sum(-1, keepdims=True))
    return x.astype(rng.choice([np.float32, np.float64]))


def bits(found: list[list]) -> list[list]:
    """Everything that a search returns, scores bit for bit."""
    return [[(h.tokens, h.score.hex(), h.times, h.words) for h in row] for row in found]


def beginning(texts: list[tuple[str, ...]]) -> list[str]:
    """The words with which all begin, but for the last of each: it may still grow."""
    same = 0
    while all(same + 1 < len(some) and some[same] == texts[0][same] for some in texts):
        same += 1
    return list(texts[0][:same])


def run_both(numpy_search, compiled, x: np.ndarray, hotwords: list, rng: np.random.Generator) -> None:
    """Search in chunks cut anywhere, each row by its own, and compare after each."""
    b, t, _ = x.shape
    numpy_state = stack([numpy_search.init_state(1, some) for some in hotwords])
    state = stack([compiled.init_state(1, some) for some in hotwords])
    seen = np.zeros(b, dtype=int)
    while True:
        n = np.minimum(rng.integers(0, t + 1, b), t - seen)
        chunk = np.full((b, n.max() + 1, x.shape[2]), np.nan, x.dtype)
        for r in range(b):
            chunk[r, : n[r]] = x[r, seen[r] : seen[r] + n[r]]
        numpy_state, state = numpy_search.step(chunk, n, numpy_state), compiled.step(chunk, n, state)
        seen += n
        found = numpy_search.hypotheses(numpy_state, 99)
        assert bits(compiled.hypotheses(state, 99)) == bits(found)
        for rows in ([0], [1 % b], [0, b - 1]):
            shared = compiled.shared_words([take(state, [r]) for r in rows])
            if found[0][0].words is None:
                assert shared is None
            else:
                assert shared == beginning([h.words for r in rows for h in found[r]])
        if rng.random() < 0.2 and seen.any():
            order = rng.permutation(b)  # rows are values that may be reordered
            numpy_state, state, x, seen = take(numpy_state, order), take(state, order), x[order], seen[order]
        if (seen == t).all():
            break
    numpy_lattices = numpy_search.lattices(numpy_search.finish(numpy_state))
    for one, other in zip(compiled.lattices(compiled.finish(state)), numpy_lattices, strict=True):
        assert (one is None) == (other is None)
        for field, wanted in zip(one or (), other or (), strict=True):
            assert list(field) == list(wanted)  # the scores too, bit for bit
    for timed in (True, False):
        found = compiled.hypotheses(compiled.finish(state), 99, timed)
        assert bits(found) == bits(numpy_search.hypotheses(numpy_search.finish(numpy_state), 99, timed))


@given(
    tokenizer=tokenizers(), model=models(), weights=st.sampled_from(WEIGHTS), options=searches(), seed=st.integers(0)
)
@settings(max_examples=60, deadline=None)
def test_any_lexicon_and_model(tokenizer, model, weights, options, seed):
    rng = np.random.default_rng(seed)
    guide = WordGuide(tokenizer, model, weight=weights[0], bonus=weights[1])
    x = drawn_frames(rng, 3, 12, tokenizer.vocab_size)
    run_both(PrefixBeam(guide=guide, **options), CompiledBeam(of_guide(guide), **options), x, [None] * 3, rng)


PHRASES = st.dictionaries(
    st.sampled_from(["a", "ab", "b a", "aab", "ab ab", "bb", "abab a", "bbb b"]),
    st.sampled_from([0.5, 1.5, 4.0, -1.0, -4.0]),
    min_size=1,
    max_size=3,
)


@given(
    tokenizer=tokenizers(),
    model=models(),
    weights=st.sampled_from(WEIGHTS),
    options=searches(),
    phrases=st.lists(PHRASES, min_size=2, max_size=2),
    worded=st.booleans(),
    seed=st.integers(0),
)
@settings(max_examples=60, deadline=None)
def test_any_hotwords(tokenizer, model, weights, options, phrases, worded, seed):
    """Beside sessions without; some words are in no lexicon, and some are said otherwise than there."""
    rng = np.random.default_rng(seed)
    more = {"a = B B": 2.0} if tokenizer is not CHARS and seed % 2 else {}
    hotwords = [
        Hotwords(tokenizer, {**some, **more}, lambda words: {w: [tuple(w.upper())] for w in words}) for some in phrases
    ]
    x = drawn_frames(rng, 3, 12, tokenizer.vocab_size)
    guide = WordGuide(tokenizer, model, weight=weights[0], bonus=weights[1])
    joint = Guides([guide, HotwordGuide()]) if worded else HotwordGuide()
    compiled = CompiledBeam(of_guide(guide) if worded else None, hotwords=True, **options)
    run_both(PrefixBeam(guide=joint, **options), compiled, x, [*hotwords, None], rng)


@given(options=searches(), seed=st.integers(0), v=st.sampled_from([2, 3, 6]))
@settings(max_examples=30, deadline=None)
def test_without_any_guide(options, seed, v):
    rng = np.random.default_rng(seed)
    run_both(PrefixBeam(**options), CompiledBeam(**options), drawn_frames(rng, 3, 12, v), [None] * 3, rng)


@given(tokenizer=tokenizers(), model=models(), seed=st.integers(0))
@settings(max_examples=40, deadline=None)
def test_other_weights_look_ahead_as_the_guide_does(tokenizer, model, seed):
    rng = np.random.default_rng(seed)
    guide = WordGuide(tokenizer, model, weight=0.8, bonus=0.7)
    tables = of_guide(guide)
    for weight, bonus in WEIGHTS:
        other, flat = guide.weighted(weight=weight, bonus=bonus), tables.weighted(weight, bonus)
        assert flat.tree.ahead.tolist() == other.vocabulary.ahead.tolist()
        assert flat.likeliest.tolist() == other.vocabulary.likeliest.tolist()
    scores = rng.integers(-3, 0, len(model.ids)).astype(float)  # mostly ties
    best, word = guide.vocabulary.tree.best(scores)
    found = look_ahead(tables.tree, scores)
    assert [x.tolist() for x in found] == [best.tolist(), word.tolist()]


def test_long_input_and_many_ways_need_more_room():
    """Nodes are compacted, and the arrays for extensions grow."""
    lexicon = Lexicon({f"{a}{b}": (("A",), ("B",)) for a in "abcdefgh" for b in "abcdefgh"})
    tokenizer, words = PhoneTokenizer(lexicon), [*lexicon, END]
    rows = np.arange(len(words), dtype=np.int32)[:, None]
    log_prob = np.linspace(-4, -2, len(words)).astype(np.float32)
    model = NgramModel(words, [Grams(rows, log_prob, np.zeros_like(log_prob))])
    guide = WordGuide(tokenizer, model, weight=1.0, bonus=1.0)
    rng = np.random.default_rng(1)
    x = drawn_frames(rng, 1, 150, tokenizer.vocab_size)
    options = {"beam": 40, "prune": 30.0, "recombine": 2, "blank_skip": 0.9}
    compiled = CompiledBeam(of_guide(guide), **options)
    compiled._room = 8
    run_both(PrefixBeam(guide=guide, **options), compiled, x, [None], rng)
    assert compiled._room > 8


def test_old_states_stay_valid():
    """Both continuations of a state are as if the other were not."""
    rng = np.random.default_rng(0)
    model = NgramModel([*WORDS, END], [Grams(np.arange(7, dtype=np.int32)[:, None], *np.full((2, 7), -1, np.float32))])
    guide = WordGuide(CHARS, model, weight=0.5, bonus=0.0)
    search = CompiledBeam(of_guide(guide), beam=6)
    x, y, z = (drawn_frames(rng, 2, 9, CHARS.vocab_size) for _ in range(3))
    n = np.array([9, 4])
    before = search.step(x, n, search.init_state(2))
    kept = [[field.copy() for field in (row.values, row.marks, row.names, row.nodes, row.words)] for row in before.rows]
    one = bits(search.hypotheses(search.step(y, n, before), 9))
    other = bits(search.hypotheses(search.finish(search.step(z, n, before)), 9))
    for row, copies in zip(before.rows, kept, strict=True):
        for field, copy in zip((row.values, row.marks, row.names, row.nodes, row.words), copies, strict=True):
            assert np.array_equal(field, copy)
    assert bits(search.hypotheses(search.step(y, n, before), 9)) == one
    fresh = search.step(x, n, search.init_state(2))
    assert bits(search.hypotheses(search.finish(search.step(z, n, fresh)), 9)) == other


@pytest.mark.parametrize("threads", [1, 2, 0])
def test_rows_in_threads_are_rows_alone(threads):
    rng = np.random.default_rng(3)
    x = drawn_frames(rng, 12, 20, 6)
    search, alone = CompiledBeam(beam=8, threads=threads), CompiledBeam(beam=8, threads=1)
    state = search.finish(search.step(x, np.full(12, 20), search.init_state(12)))
    for r in range(12):
        single = alone.step(x[r : r + 1], np.array([20]), alone.init_state(1))
        assert bits([search.hypotheses(state, 8)[r]]) == bits(alone.hypotheses(alone.finish(single), 8))


@given(seed=st.integers(0), u=st.integers(0, 12), more=st.integers(0, 20), v=st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_a_text_is_aligned_as_by_numpy(seed, u, more, v):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, v, u).tolist()
    x = drawn_frames(rng, 1, max(1, 2 * u + more - 6), v)[0]
    try:
        expected = align(x, tokens)
    except UserError:
        return  # too few frames
    assert align(x, tokens, CompiledBeam.best_path) == expected


def test_what_is_written_twice_is_equal():
    assert layout.UNFINISHED == word_search.UNFINISHED
    assert layout.UNKNOWN_SCORE == word_search.UNKNOWN_SCORE
