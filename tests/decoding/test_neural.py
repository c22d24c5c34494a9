"""A Mamba language model in the search: its scores are those of the texts as wholes."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from samba_asr.config import Config, LmConfig
from samba_asr.decoding.base import Hypothesis, stack
from samba_asr.decoding.build import neural_lm, two_pass
from samba_asr.decoding.guide import Guides
from samba_asr.decoding.hotwords import HotwordGuide, Hotwords
from samba_asr.decoding.neural import MambaGuide, TextScorer
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.errors import UserError
from samba_asr.models.folder import load_model
from samba_asr.models.lm import MambaLm
from samba_asr.models.lm_folder import load_lm, save_lm
from samba_asr.runtime.base import Frames
from samba_asr.text.tokenizer import CharTokenizer
from samba_asr.text.units import same_units
from tests.decode_settings import decoding
from tests.decoding.toys import CHARS, PHONES
from tests.support.language_model import random_lm
from tests.support.model_folder import make_model
from tests.support.search import brute_force, frames

WEIGHT, BONUS = 0.7, 0.4
CONFIG = LmConfig(layers=2, d_model=8, d_state=4, headdim=4, ffn_expand=2, dropout=0.0)


LM = random_lm(CONFIG, CHARS)
GUIDE = MambaGuide(LM.model, CHARS, weight=WEIGHT, bonus=BONUS)


def log_p(tokens) -> float:
    tokens = torch.tensor([tokens], dtype=torch.long).reshape(1, -1)
    return -float(LM.model.loss(tokens, torch.tensor([tokens.shape[1]])))


def test_the_loss_is_the_probability_of_all_texts():
    """Of all texts of at most n units the probabilities add up to less than one, and to more and more of it."""
    import itertools

    totals = []
    for n in range(4):
        texts = [list(t) for m in range(n + 1) for t in itertools.product(range(1, CHARS.vocab_size), repeat=m)]
        totals.append(sum(torch.tensor([log_p(t) for t in texts]).exp()))
    assert 0 < totals[0] < totals[1] < totals[2] < totals[3] < 1


@given(seed=st.integers(0, 10**6), cut=st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_reading_in_two_parts_is_reading_at_once(seed, cut):
    tokens = torch.randint(1, 5, (2, 7), generator=torch.Generator().manual_seed(seed))
    start, n = LM.model.init_state(2, dtype=torch.float64), torch.tensor([7, 7])
    whole, _ = LM.model.step(tokens, n, start)
    first, state = LM.model.step(tokens[:, :cut], torch.tensor([cut, cut]), start)
    second, _ = LM.model.step(tokens[:, cut:], n - cut, state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_padding_does_not_matter():
    tokens = torch.tensor([[2, 3, 4], [3, 0, 0]])
    both = LM.model.loss(tokens, torch.tensor([3, 1]))
    torch.testing.assert_close(both[1:], LM.model.loss(tokens[1:, :1], torch.tensor([1])))
    empty = LM.model.loss(torch.zeros(1, 0, dtype=torch.long), torch.tensor([0]))
    assert float(empty) == pytest.approx(-log_p([]))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_wide_beam_finds_the_best_text_with_its_score(seed):
    x = frames(seed, 1, 4, 5, sharpness=1.0)
    search = PrefixBeam(2000, None, 1.0, None, GUIDE)
    state = search.step(x, torch.tensor([4]), search.init_state(1))
    found = search.hypotheses(search.finish(state), nbest=2000)[0]
    expected = {
        tokens: score + WEIGHT * log_p(list(tokens)) + BONUS * tokens.count(2)
        for tokens, (score, *_) in brute_force(x[0].numpy()).items()
    }
    assert {h.tokens: h.score for h in found} == pytest.approx(expected, abs=1e-5)
    assert found[0].tokens == max(expected, key=expected.get)


def test_sessions_of_a_batch_and_hotwords():
    x, lengths = frames(5, 3), torch.tensor([9, 9, 9])
    search = PrefixBeam(4, guide=Guides([GUIDE, HotwordGuide()]))
    some = [None, Hotwords(CHARS, {"ab": 2.0}), None]
    state = search.step(x, lengths, stack([search.init_state(1, h) for h in some]))
    together = search.hypotheses(search.finish(state), nbest=4)
    for row, h in enumerate(some):
        alone = search.step(x[row : row + 1], lengths[:1], search.init_state(1, h))
        (found,) = search.hypotheses(search.finish(alone), nbest=4)
        assert [g.tokens for g in together[row]] == [g.tokens for g in found]
        assert [g.score for g in together[row]] == pytest.approx([g.score for g in found])


def test_over_the_nbest():
    hypotheses = [[Hypothesis((3, 4), -1.0), Hypothesis((), -1.1)], [Hypothesis((4,), -2.0)]]
    found = TextScorer(LM, CHARS, weight=WEIGHT)(hypotheses)
    scores = {h.tokens: h.score for row in found for h in row}
    expected = {(3, 4): -1.0 + WEIGHT * log_p([3, 4]), (): -1.1 + WEIGHT * log_p([]), (4,): -2.0 + WEIGHT * log_p([4])}
    assert scores == pytest.approx(expected)
    assert all(row == sorted(row, key=lambda h: -h.score) for row in found)
    words = [[Hypothesis((9,), -1.0, (0,), ("a", "b"))]]  # how a lexicon reads phones
    (((h,),)) = TextScorer(LM, PHONES, weight=1.0)(words)
    assert h.score == pytest.approx(-1.0 + log_p(CHARS.encode("a b")))


class TestFolder:
    @pytest.fixture
    def place(self, tmp_path):
        make_model(tmp_path / "model", "model.decoder.layers=1")
        tokenizer = load_model(tmp_path / "model").tokenizer
        for name, some in {"same": tokenizer, "other": CharTokenizer(["▁", "a"])}.items():
            model = MambaLm(CONFIG, some.vocab_size)
            save_lm(tmp_path / name, model, dataclasses.replace(Config(), lm=CONFIG), some, perplexity=9.0)
        return tmp_path

    def test_it_comes_back_as_it_was(self, place):
        loaded = load_lm(place / "other")
        assert not loaded.model.training
        assert loaded.tokenizer.vocab_size == 4
        assert "perplexity 9.0" in (place / "other" / "README.md").read_text()

    def test_with_the_same_units_it_guides_the_beam_and_else_reads_the_nbest(self, place):
        loaded = load_model(place / "model")
        settings = decoding("search.method=beam", f"lm.neural={place / 'same'}", "search.rescore=0.3")
        guide, reader = neural_lm(loaded, settings, alone=True)
        assert isinstance(guide, MambaGuide)
        assert reader is None
        guide, reader = neural_lm(loaded, settings.with_files({"lm.neural": str(place / "other")}), alone=True)
        assert guide is None
        assert isinstance(reader, TextScorer)
        for name in ("same", "other"):
            search = two_pass(loaded, settings.with_files({"lm.neural": str(place / name)}), loaded.model.decoder)
            frames, lengths = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([7, 5])
            with torch.inference_mode():
                found = Frames(frames, loaded.model.ctc(frames, lengths)[0], lengths)
                state = search.step(found, search.init_state(2))
                nbest = search.hypotheses(search.finish(state), nbest=3)
            assert all(row == sorted(row, key=lambda h: -h.score) for row in nbest)
        assert not same_units(PHONES, PHONES)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (["lm.neural=nowhere"], "not the folder of a Mamba language model"),
            (["lm.neural=model"], "has no lm.safetensors"),
            (["lm.neural=same", "lm.neural_weight=-1"], "decode.lm.neural_weight=-1: give a weight from 0 to 10"),
            (["lm.neural=same", "search.method=greedy"], "needs several hypotheses"),
        ],
    )
    def test_what_cannot_be(self, place, changes, message):
        changes = [text.replace("lm.neural=", f"lm.neural={place}/") for text in changes]
        with pytest.raises(UserError, match=message):
            two_pass(load_model(place / "model"), decoding("search.method=beam", *changes))

    def test_weights_of_another_model(self, place):
        (place / "same" / "lm.safetensors").write_bytes(b"rubbish")
        with pytest.raises(UserError, match="does not hold this model's weights"):
            load_lm(place / "same")

    def test_weights_that_are_not_finite_and_sizes_without_end(self, place):
        file, config = place / "same" / "lm.safetensors", place / "other" / "config.yaml"
        weights = load_file(file)
        weights["output.bias"][0] = float("inf")
        save_file(weights, file)
        with pytest.raises(UserError, match=r"lm\.safetensors: output\.bias holds numbers that are not finite"):
            load_lm(place / "same")
        text = config.read_text()
        before, lm = text.rsplit("\nlm:\n", 1)
        for size, message in (("d_model: 400000000", "config.yaml says"), ("layers: 1000000000", "1000000000 layers")):
            name = size.split(":")[0]
            config.write_text(before + "\nlm:\n" + re.sub(rf"(?m)^  {name}: \d+", f"  {size}", lm, count=1))
            with pytest.raises(UserError, match=message):
                load_lm(place / "other")
