"""Segments of endless speech: no token is lost or said twice, wherever they end and however frames arrive."""

from __future__ import annotations

import itertools
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
from samba_asr.decoding.segments import ALONE, speech
from samba_asr.decoding.words import WordGuide
from samba_asr.errors import UserError
from samba_asr.runtime.base import Frames
from samba_asr.text.tokenizer import CharTokenizer
from tests.decoding.toys import PHONES, model

FRAME = 0.1
TOKENIZER = CharTokenizer(["▁", "a", "b"])
BLANK, SPACE, A, B = 0, 2, 3, 4
RULES = EndpointConfig(silence=0.8, pause=0.4, longest=2.0)  # 8, 4 and 20 frames


def segmenter(search=None, rules=RULES, tokenizer=TOKENIZER) -> Segmenter:
    return Segmenter(TwoPass(search or Greedy()), tokenizer, rules, FRAME)


def step(driver: Segmenter, sessions, x: torch.Tensor, lengths) -> None:
    """Frames that are the log-probabilities themselves, x (b, t, v)."""
    driver.step(sessions, Frames(x, x, torch.tensor(lengths)))


def frames(ids, seed: int = 0, sure: float = 6.0) -> torch.Tensor:
    """(t, v): each frame is `sure` of its id, the others are drawn."""
    noise = torch.randn(len(ids), 5, generator=torch.Generator().manual_seed(seed))
    noise[range(len(ids)), ids] += sure
    return noise.log_softmax(-1)


def heard(driver: Segmenter, x: torch.Tensor, sizes=()) -> list:
    session, at = driver.open(), 0
    for n in [*sizes, len(x)]:
        n = min(n, len(x) - at)
        step(driver, [session], x[None, at : at + n], [n])
        at += n
    driver.finish(session)
    return ended(driver, session)


def ended(driver: Segmenter, session) -> list:
    return driver.collect(session)[0]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return model(tmp_path_factory.mktemp("lm"))


RUNS = st.lists(st.tuples(st.sampled_from([BLANK, BLANK, SPACE, A, B]), st.integers(1, 7)), max_size=30)
BEAM = PrefixBeam(4, candidates=3)


def test_fewer_words_have_to_be_surer():
    def told(words: int, least: float) -> bool:
        x = frames(([A] * 3 + [SPACE] * 2) * words + [BLANK] * 12)
        return bool(heard(segmenter(rules=replace(RULES, confidence=least)), x))

    def bound(words: int) -> float:
        """The least confidence of which nothing is told, to 0.01."""
        return next(n / 100 for n in range(101) if not told(words, n / 100))

    assert told(1, 0.0)
    assert bound(1) < bound(2) < bound(5) <= 1


def test_of_a_segment_that_is_not_sure_enough_nothing_is_told():
    said = [A] * 3 + [B] * 3 + [BLANK] * 6
    x = torch.cat([frames(said), frames(said, sure=2.0), frames(said, seed=1)])
    told = heard(segmenter(), x)
    sure = [sum(w.confidence for w in s.words) / (len(s.words) + ALONE) for s in told]
    assert len(told) == 3
    assert sure[1] < min(sure[0], sure[2])
    least = (sure[1] + min(sure[0], sure[2])) / 2
    rules = replace(RULES, confidence=least)
    assert heard(segmenter(rules=rules), x) == [told[0], told[2]]
    with pytest.raises(UserError, match=r"decode.endpoint.confidence=1.5: give a value from 0"):
        segmenter(rules=replace(RULES, confidence=1.5))


def is_speech(some, least: float) -> bool:
    return sum(some) >= least * (len(some) + ALONE)


def test_sure_words_are_not_withheld_with_unsure_ones():
    cut = [0.96, 0.96, 0.27, 0.17]  # THESE PEOPLE, and what the end of the clip made of a word
    assert not is_speech(cut, 0.65)
    assert speech(cut, 0.65) == [0, 1]
    assert speech([0.1, *cut, *cut[::-1]], 0.65) == [1, 2, 7, 8]
    assert speech([0.84, 0.1, 0.2, 0.84, 0.3], 0.65) == []  # a click now and then
    assert speech([0.9, 0.9, 0.9, 0.4], 0.65) == [0, 1, 2, 3]  # the whole is speech: nothing changes
    assert speech([0.1, 0.0], 0.0) == [0, 1]
    assert speech([], 0.65) == []


@given(some=st.lists(st.floats(0, 1), max_size=12), least=st.floats(0.05, 1))
@settings(max_examples=300, deadline=None)
def test_no_run_of_words_that_is_speech_is_withheld_whole(some, least):
    kept = set(speech(some, least))
    if is_speech(some, least + 1e-9):
        assert len(kept) == len(some)
    for first, end in itertools.combinations(range(len(some) + 1), 2):
        if sum(some[first:end]) > least * (end - first + ALONE) + 1e-9:
            assert kept & set(range(first, end))


def test_words_that_are_withheld_are_counted():
    said = [A] * 2 + [SPACE] + [B] * 2 + [SPACE] + [A] * 2
    x = torch.cat([frames(said, sure=9.0), frames([SPACE] * 2 + [A, B] * 2, sure=1.0), frames([BLANK] * 3)])
    driver = segmenter()
    (everything,) = heard(driver, x)
    confidences = [word.confidence for word in everything.words]
    least = 0.85
    kept = [everything.words[n].text for n in speech(confidences, least)]
    assert 0 < len(kept) < len(confidences)
    driver = segmenter(rules=replace(RULES, confidence=least))
    session = driver.open()
    step(driver, [session], x[None], [len(x)])
    driver.finish(session)
    told, withheld = driver.collect(session)
    assert [segment.text for segment in told] == [" ".join(kept)]
    assert withheld == len(confidences) - len(kept)


@given(runs=RUNS, seed=st.integers(0, 1000), sizes=st.lists(st.integers(0, 30), max_size=8))
@settings(max_examples=150, deadline=None)
def test_segments_joined_are_the_session_as_one(runs, seed, sizes):
    x = frames([i for i, n in runs for _ in range(n)], seed)
    greedy = Greedy()
    whole = greedy.hypotheses(greedy.step(x[None], torch.tensor([len(x)]), greedy.init_state(1)))[0][0]
    segments = heard(segmenter(), x, sizes)
    letters = "".join(TOKENIZER.pieces(whole.tokens)).replace("▁", "")
    assert "".join(word.text for s in segments for word in s.words) == letters
    words = [word for s in segments for word in s.words]
    for before, after in itertools.pairwise(words):
        assert before.start < before.end <= after.start
    # Each word begins where one of the session's tokens begins.
    assert {round(word.start / FRAME) for word in words} <= set(whole.times)


@pytest.mark.parametrize("search", [Greedy(), BEAM], ids=["greedy", "beam"])
@given(runs=RUNS, seed=st.integers(0, 1000), sizes=st.lists(st.integers(0, 30), max_size=8))
@settings(max_examples=60, deadline=None)
def test_chunks_do_not_matter(search, runs, seed, sizes):
    x = frames([i for i, n in runs for _ in range(n)], seed, 3.0)
    assert heard(segmenter(search), x, sizes) == heard(segmenter(search), x)


@given(data=st.data(), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_sessions_of_a_batch_do_not_know_each_other(data, seed):
    driver = segmenter(BEAM)
    whole = [frames([i for i, n in data.draw(RUNS) for _ in range(n)], seed + r) for r in range(3)]
    sessions, at = [driver.open() for _ in whole], [0, 0, 0]
    while any(a < len(x) for a, x in zip(at, whole, strict=True)):
        n = [data.draw(st.integers(0, min(25, len(x) - a))) for a, x in zip(at, whole, strict=True)]
        chunk = torch.full((3, max(n) + 1, 5), torch.nan)
        for r, x in enumerate(whole):
            chunk[r, : n[r]] = x[at[r] : at[r] + n[r]]
        step(driver, sessions, chunk, n)
        at = [a + more for a, more in zip(at, n, strict=True)]
    for session, x in zip(sessions, whole, strict=True):
        driver.finish(session)
        assert ended(driver, session) == heard(driver, x)


@pytest.mark.parametrize("search", [Greedy(), BEAM], ids=["greedy", "beam"])
def test_a_long_segment_may_be_cut_anywhere_and_the_text_is_the_same(search):
    """The same speech, begun later and later: the cut wanders through all of it."""
    said = [SPACE, A, A, BLANK, A, B, SPACE, BLANK, B, B, A, BLANK, BLANK, SPACE, A, BLANK, A, SPACE, B, BLANK] * 4
    expected = ["aab", "ba", "aa", "b"] * 4
    cuts = set()
    for late in range(20):
        segments = heard(segmenter(search), frames([A] + [BLANK] * 3 + said[late:], late, 9.0))
        assert len(segments) > 2
        cuts |= {s.words[0].start + late * FRAME for s in segments[1:]}
        words = [word.text for s in segments for word in s.words]
        rest = "".join("".join(TOKENIZER.pieces([i for i in said[:late] if i])).split("▁"))
        joined = "a" + "".join(expected)
        # What `late` took away is missing at the beginning, and nothing else; runs of a letter were heard once.
        assert joined.endswith("".join(words)[1:]), (late, rest)
        assert words[-8:] == expected[-8:]
    assert len(cuts) > 5


@given(seed=st.integers(0, 10**6), length=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_words_of_a_lexicon_even_where_the_audio_ends_amid_one(lm, seed, length):
    search = PrefixBeam(6, guide=WordGuide(PHONES, lm, ["ab"], weight=0.5, bonus=1.0))
    driver = segmenter(search, tokenizer=PHONES)
    x = torch.randn(length, PHONES.vocab_size, generator=torch.Generator().manual_seed(seed)).mul(3).log_softmax(-1)
    for segment in heard(driver, x):
        assert segment.text == " ".join(word.text for word in segment.words)
        assert set(segment.text.split()) == {"ab"}


class TestRules:
    def test_a_pause_ends_a_segment_at_its_frame(self):
        driver = segmenter()
        session = driver.open()
        step(driver, [session], frames([A, A, BLANK, BLANK, BLANK])[None], [5])
        assert ended(driver, session) == []
        assert (driver.text(session), driver.stable(session)) == ("a", "")
        step(driver, [session], frames([BLANK])[None], [1])
        (segment,) = ended(driver, session)
        assert (segment.text, segment.start, segment.end) == ("a", 0.0, 0.2)
        assert (driver.text(session), driver.stable(session)) == ("", "")

    def test_silence_alone_is_no_segment_but_time_goes_on(self):
        segments = heard(segmenter(), frames([BLANK] * 50 + [B] + [BLANK] * 50))
        assert [(s.text, s.start, s.end) for s in segments] == [("b", 5.0, 5.1)]

    def test_silence_counts_on_across_a_cut(self):
        driver = segmenter()
        session = driver.open()
        said = [A, SPACE, BLANK] * 3 + [A] + [BLANK] * 3 + [SPACE, B, B, B] + [BLANK] * 3
        step(driver, [session], frames(said)[None], [20])
        assert len(ended(driver, session)) == 1  # too long; what is left of it ends in three silent frames
        step(driver, [session], frames([BLANK])[None], [1])
        assert len(ended(driver, session)) == 1

    def test_a_long_segment_is_cut_behind_its_longest_silence_and_only_the_rest_is_searched_again(self):
        searched = []

        class Counting(Greedy):
            def step(self, log_probs, lengths, state):
                searched.append(int(lengths.sum()))
                return super().step(log_probs, lengths, state)

        driver = segmenter(Counting())
        session = driver.open()
        said = [A, B] * 5 + [SPACE, A, BLANK, BLANK, BLANK, SPACE, B, BLANK, BLANK, A]
        step(driver, [session], frames(said)[None], [20])
        (segment,) = ended(driver, session)
        assert segment.until == 1.5
        assert sum(searched) == 20 + 5
        assert driver.text(session) == "ba"

    def test_memory_is_bounded(self):
        driver = segmenter()
        session = driver.open()
        for n in range(40):
            step(driver, [session], frames([A, B, SPACE, A, BLANK] * 3, n)[None], [15])
            assert sum(map(len, session.frames)) == sum(map(len, session.log_probs)) == session.length < 20
        assert len(ended(driver, session)) > 20

    def test_one_unit_without_end(self):
        segments = heard(segmenter(), frames([A] * 100))
        assert {s.text for s in segments} == {"a"}

    @pytest.mark.parametrize("rules", [{"silence": 0.0}, {"pause": -1.0}, {"longest": 1.0}, {"longest": float("inf")}])
    def test_rules_that_make_no_sense(self, rules):
        (name,) = rules
        with pytest.raises(UserError, match=rf"decode.endpoint.{name}="):
            segmenter(rules=EndpointConfig(**rules))


def test_without_rules_the_session_is_one_segment():
    x = frames([A, B] + [BLANK] * 40 + [SPACE, B] + [A, B] * 20)
    (segment,) = heard(segmenter(rules=None), x)
    greedy = Greedy()
    (whole,) = greedy.hypotheses(greedy.step(x[None], torch.tensor([len(x)]), greedy.init_state(1)))[0]
    assert segment.text == TOKENIZER.decode(whole.tokens)


def test_what_is_stable_never_changes():
    driver = segmenter(BEAM)
    for seed in range(30):
        session, sure = driver.open(), ""
        x = frames([A, SPACE, B, A, SPACE, A, BLANK, B, SPACE, B, A], seed, 1.5)
        for t in range(len(x)):
            step(driver, [session], x[None, t : t + 1], [1])
            text, stable = driver.text(session), driver.stable(session)
            assert (stable + " ").startswith(sure + " " if sure else "")
            assert text.startswith(stable)
            sure = stable
        driver.finish(session)
        assert ended(driver, session)[0].text.startswith(sure)


def test_missing_audio_moves_the_words_after_it():
    """Frames of missing audio count from the session's first frame, also in later segments."""
    said = [SPACE, A, A, SPACE, B, B, *[BLANK] * 6]
    driver, plain = segmenter(), segmenter()
    session, other = driver.open(), plain.open()
    session.missing = {
        0: 2.0,
        3: 2.5,
        16: 10.0,
    }  # before the first word, the second, and the second of the next segment
    for _ in range(2):
        step(driver, [session], frames(said)[None], [12])
        step(plain, [other], frames(said)[None], [12])
    driver.finish(session)
    plain.finish(other)
    moved = [(2.0, 4.5), (4.5, 14.5)]
    segments, plain_ones = ended(driver, session), ended(plain, other)
    assert len(segments) == len(plain_ones) == 2
    for segment, want, offsets in zip(segments, plain_ones, moved, strict=True):
        for word, there, frames_later in zip(segment.words, want.words, offsets, strict=True):
            assert word.text == there.text
            assert word.start == pytest.approx(there.start + frames_later * FRAME)
            assert word.end == pytest.approx(there.end + frames_later * FRAME)
        assert segment.until == pytest.approx(want.until + offsets[1] * FRAME)
    assert not session.missing


def test_missing_audio_between_silent_frames_is_silence():
    x = frames([A, A, *[BLANK] * 3, A, A])
    session, driver = segmenter().open(), segmenter()
    step(driver, [session], x[None], [7])
    assert not ended(driver, session)
    session = driver.open()
    session.missing = {4: 5.0}
    step(driver, [session], x[None], [7])
    assert [round(segment.until / FRAME) for segment in ended(driver, session)] == [10]
