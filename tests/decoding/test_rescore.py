"""The second pass: joint scores of an n-best list, in batches, and both passes on frames that come in chunks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.config import DecoderConfig, FeatureConfig, HydraConfig, ModelConfig
from samba_asr.decoding.base import Hypothesis
from samba_asr.decoding.greedy import Greedy
from samba_asr.decoding.hotwords import HotwordGuide, Hotwords
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.decoding.rescore import TwoPass, rescore
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.runtime.base import Frames
from samba_asr.streaming import take_rows
from tests.contract import awake
from tests.decoding.toys import CHARS
from tests.support.search import frames

NBEST = [
    [Hypothesis((2, 3), -1.0, (0, 4)), Hypothesis((2, 3, 4, 3), -1.5, (0, 4, 5, 6)), Hypothesis((), -4.0)],
    [Hypothesis((), -0.5)],
    [Hypothesis((4,), -2.0, (1,)), Hypothesis((2, 2), -2.5, (1, 3))],
]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ModelConfig(
        features=FeatureConfig(mels=8, high_hz=4000),
        d_model=8,
        layers=1,
        subsampling_channels=4,
        conv_kernel=5,
        mixer=HydraConfig(d_state=4, headdim=8),
        vocab_size=6,
        decoder=DecoderConfig(layers=2, d_model=16, d_state=8, headdim=8),
    )
    return awake(AsrModel(config)).eval().double()


@pytest.fixture(scope="module")
def memory(model):
    frames = torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = model.decoder.init_memory(3, dtype=torch.float64)
    with torch.no_grad():
        return model.decoder.absorb(frames, torch.tensor([9, 5, 0]), start)


def decoder_score(model, tokens, memory) -> float:
    """log p(tokens, end | speech) by walking the softmax outputs of one text; the end is id 0."""
    with torch.no_grad():
        logits = model.decoder(torch.tensor([tokens], dtype=torch.long), torch.tensor([len(tokens)]), memory)
    return sum(float(logits[0, i].log_softmax(-1)[token]) for i, token in enumerate([*tokens, 0]))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_scores_are_the_weighted_sum_of_both_and_sort_each_row(model, memory, weight):
    with torch.no_grad():
        found = rescore(model.decoder, NBEST, memory, weight)
    for row, (before, after) in enumerate(zip(NBEST, found, strict=True)):
        assert sorted(h.tokens for h in after) == sorted(h.tokens for h in before)
        assert [h.score for h in after] == sorted((h.score for h in after), reverse=True)
        for h in after:
            old = next(b for b in before if b.tokens == h.tokens)
            expected = (1 - weight) * old.score + weight * decoder_score(model, h.tokens, take_rows(memory, [row]))
            assert h.score == pytest.approx(expected)
            assert h.times == old.times


def test_weight_0_keeps_the_order_of_the_first_pass(model, memory):
    assert rescore(model.decoder, NBEST, memory, 0.0) == NBEST


def test_rows_do_not_know_each_other(model, memory):
    with torch.no_grad():
        together = rescore(model.decoder, NBEST, memory, 0.5)
        for row in range(3):
            (alone,) = rescore(model.decoder, NBEST[row : row + 1], take_rows(memory, [row]), 0.5)
            assert [h.tokens for h in alone] == [h.tokens for h in together[row]]
            assert [h.score for h in alone] == pytest.approx([h.score for h in together[row]])


def test_a_row_without_hypotheses_and_no_rows_at_all(model, memory):
    assert rescore(model.decoder, [[], [], []], memory, 0.5) == [[], [], []]
    assert rescore(model.decoder, [], take_rows(memory, []), 0.5) == []


def test_what_cannot_be_done_is_told(model, memory):
    with pytest.raises(UserError, match=r"model\.decoder\.layers=0"):
        rescore(None, NBEST, memory, 0.5)
    with pytest.raises(UserError, match=r"decode\.search\.rescore=1\.5"):
        rescore(model.decoder, NBEST, memory, 1.5)
    with pytest.raises(UserError, match=r"decode\.search\.rescore=-0\.1"):
        TwoPass(PrefixBeam(4), model.decoder, weight=-0.1)


def read(model, frames, lengths) -> Frames:
    return Frames(frames, model.ctc(frames, lengths)[0], lengths)


@pytest.mark.parametrize(("search", "weight"), [(PrefixBeam(4), 0.6), (PrefixBeam(4), 0.0), (Greedy(), 0.0)])
def test_both_passes_on_chunks_give_what_they_give_on_the_whole(model, search, weight):
    passes = TwoPass(search, model.decoder, weight=weight, nbest=4)
    frames = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    lengths = torch.tensor([12, 7])
    with torch.inference_mode():
        whole = passes.hypotheses(
            passes.finish(passes.step(read(model, frames, lengths), passes.init_state(2))), nbest=3
        )
        state = passes.init_state(2)
        for start, end in ((0, 5), (5, 5), (5, 8), (8, 12)):
            part = (lengths - start).clamp(0, end - start)
            state = passes.step(read(model, frames[:, start:end], part), state)
        chunks = passes.hypotheses(passes.finish(state), nbest=3)
    for a, b in zip(whole, chunks, strict=True):
        assert [h.tokens for h in a] == [h.tokens for h in b]
        assert [h.score for h in a] == pytest.approx([h.score for h in b])
        assert 1 <= len(a) <= 3


def test_the_second_pass_can_change_the_winner(model):
    passes = TwoPass(PrefixBeam(6), model.decoder, weight=1.0, nbest=6)
    frames = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.inference_mode():
        state = passes.step(read(model, frames, torch.tensor([12])), passes.init_state(1))
        first = passes.search.hypotheses(state.search, 6)[0]
        second = passes.hypotheses(state, nbest=6)[0]
        by_decoder = sorted(first, key=lambda h: -decoder_score(model, h.tokens, state.memory))
    assert [h.tokens for h in second] == [h.tokens for h in by_decoder]


class TestHotwords:
    """A row with hotwords is searched without them, too."""

    def run(self, passes, hotwords, x, cuts=(9,)):
        states = [passes.init_state(1, h) for h in hotwords]
        state, lengths, at = passes.stack(states), torch.full((len(states),), 0), 0
        for cut in cuts:
            part = x[:, at : at + cut]
            lengths = torch.full((len(states),), part.shape[1])
            state, at = passes.step(Frames(part, part, lengths), state), at + cut
        return passes.hypotheses(passes.finish(state), nbest=3), state

    def passes(self):
        return TwoPass(PrefixBeam(3, guide=HotwordGuide()))

    @given(seed=st.integers(0, 10**6), weight=st.sampled_from([-2.0, 0.5, 3.0]), cut=st.integers(1, 8))
    @settings(max_examples=60, deadline=None)
    def test_what_is_not_said_changes_nothing(self, seed, weight, cut):
        x, passes = frames(seed, 3), self.passes()
        hotwords = Hotwords(CHARS, {"ab a": weight, "bb": weight})
        found, state = self.run(passes, [None, hotwords, None], x, (cut, 9 - cut))
        (plain,), _ = self.run(passes, [None], x[1:2])
        said = [hotwords.text_score(h.tokens, h.words) for h in (found[1][0], plain[0])]
        if said == [0, 0]:
            assert found[1] == plain
        assert passes.without_hotwords(passes.take(state, [1]), 3) is not None
        assert passes.without_hotwords(passes.take(state, [0]), 3) is None
        for row in (0, 2):
            assert found[row] == self.run(passes, [None], x[row : row + 1])[0][0]

    def test_what_can_still_become_the_text_is_what_either_search_holds(self):
        x, passes = frames(3, 1), self.passes()
        state = passes.init_state(1, Hotwords(CHARS, {"ab": 20.0}))
        state = passes.step(Frames(x[:, :4], x[:, :4], torch.tensor([4])), state)
        possible = {h.tokens for h in passes.still_possible(state)}
        alone = passes.step(Frames(x[:, :4], x[:, :4], torch.tensor([4])), passes.init_state(1))
        assert possible >= {h.tokens for h in passes.still_possible(alone)}


def test_a_phrase_counts_by_the_words_where_there_are_some():
    hotwords = Hotwords(CHARS, {"a b": 2.0, "ba": -1.0})
    assert hotwords.text_score((), ("b", "a", "b", "a")) == 2
    assert hotwords.text_score((), ("ba", "ab", "a")) == -1
    assert hotwords.text_score(CHARS.encode("b a b"), None) == 8
    assert hotwords.text_score(CHARS.encode("ab bab"), None) == 0
