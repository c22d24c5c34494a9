"""Turns: when one begins, may be over, goes on and is over, whatever the chunks."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.config import EndpointConfig
from samba_asr.decoding.greedy import Greedy
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.decoding.rescore import TwoPass
from samba_asr.decoding.segmenter import Segmenter
from samba_asr.decoding.turns import EagerEnd, SpeechStarted, TurnEnded, TurnResumed, TurnRules, probability
from samba_asr.errors import UserError
from samba_asr.runtime.base import Frames
from samba_asr.text.tokenizer import CharTokenizer

FRAME = 0.1
TOKENIZER = CharTokenizer(["▁", "a", "b"])
BLANK, SPACE, A, B = 0, 2, 3, 4
RULES = EndpointConfig(silence=0.8, pause=0.4, longest=2.0)  # 8, 4 and 20 frames
EAGER = TurnRules(eager=0.2)
RUNS = st.lists(st.tuples(st.sampled_from([BLANK, BLANK, SPACE, A, B]), st.integers(1, 7)), max_size=30)


def segmenter(search=None, rules=RULES) -> Segmenter:
    return Segmenter(TwoPass(search or Greedy()), TOKENIZER, rules, FRAME)


def frames(ids, seed: int = 0, sure: float = 6.0) -> torch.Tensor:
    noise = torch.randn(len(ids), 5, generator=torch.Generator().manual_seed(seed))
    noise[range(len(ids)), ids] += sure
    return noise.log_softmax(-1)


def story(x: torch.Tensor, turns: TurnRules | None = EAGER, sizes=(), search=None, rules=RULES) -> list:
    """Segments and signals of a session, in their order."""
    driver = segmenter(search, rules)
    session, at = driver.open(turns=turns), 0
    for n in [*sizes, len(x)]:
        piece = x[None, at : at + n]
        driver.step([session], Frames(piece, piece, torch.tensor([piece.shape[1]])))
        at += piece.shape[1]
    driver.finish(session)
    return driver.collect(session)[0]


def plainly(found) -> list:
    return [
        (type(one).__name__, getattr(one, "text", None) or getattr(one, "at", None) or one.segment.text)
        for one in found
        if not isinstance(one, SpeechStarted) or one.at
    ]


def test_a_turn_from_its_first_sound_to_its_last():
    found = story(frames([BLANK, A, A, BLANK, BLANK, BLANK, SPACE, B] + [BLANK] * 4))
    assert plainly(found) == [
        ("SpeechStarted", 0.1),
        ("EagerEnd", "a"),  # after 0.2 s of silence
        ("TurnResumed", 0.6),
        ("EagerEnd", "a b"),
        ("Segment", "a b"),
        ("TurnEnded", 0.8),
    ]
    assert [one.segment.until for one in found if isinstance(one, EagerEnd)] == [0.5, 1.0]
    assert found[-1].until == 1.2


def test_silence_has_no_turn():
    assert story(frames([BLANK] * 60)) == []


def test_words_that_are_withheld_make_no_eager_end_and_no_resumption():
    x = frames([A, A] + [BLANK] * 3 + [SPACE, B] + [BLANK] * 4)
    found = story(x, rules=replace(RULES, confidence=1.0))
    assert [type(one).__name__ for one in found] == ["SpeechStarted", "TurnEnded"]


def test_without_an_eager_rule_none_is_reported():
    found = story(frames([A, A] + [BLANK] * 4), TurnRules())
    assert [type(one).__name__ for one in found] == ["SpeechStarted", "Segment", "TurnEnded"]


def test_a_session_may_have_its_own_silence_that_ends_a_turn():
    x = frames([A, A] + [BLANK] * 6 + [SPACE, B] + [BLANK] * 7)
    assert len([one for one in story(x, TurnRules(end=0.7)) if isinstance(one, TurnEnded)]) == 1
    assert len([one for one in story(x, TurnRules(end=0.2)) if isinstance(one, TurnEnded)]) == 2


def test_a_segment_that_is_too_long_ends_no_turn():
    found = story(frames([A, B, SPACE] * 12))
    kinds = [type(one).__name__ for one in found]
    assert kinds.count("Segment") >= 2
    assert kinds.count("SpeechStarted") == kinds.count("TurnEnded") == 1
    assert kinds[-1] == "TurnEnded"


def test_the_end_of_the_audio_ends_a_turn():
    found = story(frames([A, A, BLANK]))
    assert [type(one).__name__ for one in found] == ["SpeechStarted", "Segment", "TurnEnded"]
    assert found[-1] == TurnEnded(0.2, 0.3)


@pytest.mark.parametrize("search", [None, PrefixBeam(4, candidates=3)], ids=["greedy", "beam"])
@given(runs=RUNS, seed=st.integers(0, 1000), sizes=st.lists(st.integers(0, 30), max_size=8))
@settings(max_examples=40, deadline=None)
def test_chunks_do_not_matter(search, runs, seed, sizes):
    x = frames([i for i, n in runs for _ in range(n)], seed, 3.0)
    assert story(x, sizes=sizes, search=search) == story(x, search=search)


@given(runs=RUNS, seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_signals_come_in_the_order_of_a_turn_and_change_no_segment(runs, seed):
    x = frames([i for i, n in runs for _ in range(n)], seed)
    found = story(x)
    order = "".join(
        {SpeechStarted: "s", EagerEnd: "e", TurnResumed: "r", TurnEnded: "t"}.get(type(o), "") for o in found
    )
    while order != (shorter := order.replace("er", "").replace("sr", "s").replace("st", "").replace("set", "")):
        order = shorter
    assert order == ""
    assert [one for one in found if not isinstance(one, tuple)] == story(x, None)


@given(runs=RUNS, seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_an_eager_segment_is_that_of_audio_which_ends_there(runs, seed):
    x = frames([i for i, n in runs for _ in range(n)], seed)
    for eager in (one.segment for one in story(x) if isinstance(one, EagerEnd)):
        until = round(eager.until / FRAME)
        assert eager in story(x[:until])


@pytest.mark.parametrize(
    "rules", [{"eager": 0.05}, {"end": 0.0}, {"end": 11.0}, {"eager": float("nan")}, {"end": math.inf}]
)
def test_silences_that_make_no_sense(rules):
    (name,) = rules
    with pytest.raises(UserError, match=rf"{name}_ms=.*: give 100 to 10000 ms"):
        segmenter().open(turns=TurnRules(**rules))


def test_the_probability_grows_with_the_silence():
    found = [probability(n / 10) for n in range(30)]
    assert all(0 < a < b < 1 for a, b in itertools.pairwise(found))
    driver = segmenter()
    session = driver.open(turns=EAGER)
    assert driver.ending(session) == 0
    x = frames([A, A, BLANK, BLANK])[None]
    driver.step([session], Frames(x, x, torch.tensor([4])))
    assert driver.ending(session) == probability(0.2)
