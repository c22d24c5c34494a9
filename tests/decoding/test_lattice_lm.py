"""A Mamba language model over a lattice: the best of all paths, by scores that are those of the texts as wholes."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from samba_asr.config import Config, LmConfig
from samba_asr.decoding import lattice_lm, text_sums
from samba_asr.decoding.base import Hypothesis
from samba_asr.decoding.build import neural_lm, two_pass
from samba_asr.decoding.guide import Guides
from samba_asr.decoding.hotwords import HotwordGuide, Hotwords
from samba_asr.decoding.lattice import Lattice
from samba_asr.decoding.lattice_lm import LatticeLm
from samba_asr.decoding.lm_states import LmStates, with_half_weights
from samba_asr.decoding.lm_states_numpy import NumpyLm, NumpyLmStates
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.decoding.rescore import TwoPass
from samba_asr.decoding.slots import SLOTS, Slots
from samba_asr.decoding.text_sums import text_log_probs
from samba_asr.decoding.words import WordGuide
from samba_asr.errors import UserError
from samba_asr.models.folder import load_model
from samba_asr.models.lm_folder import LoadedLm, save_lm
from samba_asr.recognizer import Recognizer
from samba_asr.runtime.base import Frames
from samba_asr.text.tokenizer import CharTokenizer
from samba_asr.text.units import BOUNDARY
from tests.decode_settings import decoding
from tests.decoding.toys import CHARS, PHONES, model, write_arpa
from tests.support.language_model import random_lm
from tests.support.lattice import found, paths
from tests.support.model_folder import make_model
from tests.support.search import frames

WEIGHT, BONUS, NEURAL = 0.8, 0.7, 0.3
T = 8
UNITS = CharTokenizer(["▁", "b", "a"])  # of the language model: not the recognizer's


def make_lm(**changes) -> LoadedLm:
    return random_lm(LmConfig(layers=2, d_model=8, d_state=4, headdim=4, ffn_expand=2, dropout=0.0, **changes), UNITS)


LM = make_lm()


def assert_probabilities(states: Slots, lm: LoadedLm, atol: float) -> None:
    """Grow a tree of texts, and compare what follows some of them with the model itself."""
    slot, after = states.start()
    texts, rng = {(): slot}, np.random.default_rng(0)
    known = {(): after}
    for _ in range(6):  # in each call texts of earlier calls, and of the same, grow by a unit
        all_texts, source, units, new = dict(texts), [], [], []
        target = states.take(SLOTS // 4)  # so that the pool grows
        for place in target:
            text = list(all_texts)[rng.integers(len(all_texts))]
            unit = int(rng.integers(1, lm.tokenizer.vocab_size))
            source.append(all_texts[text])
            units.append(unit)
            new.append((*text, unit))
            all_texts.setdefault(new[-1], place)
        for text, row in zip(new, states.extend(source, target, units), strict=True):
            known[text] = row
        texts = all_texts
    for text, row in list(known.items())[::7]:
        tokens = torch.tensor([[BOUNDARY, *text]])
        start = lm.model.init_state(1, dtype=torch.float64)
        with torch.inference_mode():
            logits, _ = lm.model.step(tokens, torch.tensor([len(text) + 1]), start)
        np.testing.assert_allclose(row, logits[0, -1].log_softmax(-1).numpy(), atol=atol)


@pytest.fixture(scope="module")
def ngram(tmp_path_factory):
    return model(tmp_path_factory.mktemp("lm"))


@pytest.fixture
def unpruned(monkeypatch):
    for name in ("PATHS", "ENDS"):
        monkeypatch.setattr(lattice_lm, name, 10**6)
    monkeypatch.setattr(lattice_lm, "BEAM", math.inf)


def log_p(lm: LoadedLm, words) -> float:
    ids = lm.tokenizer.encode(" ".join(words))
    with torch.inference_mode():
        return -float(lm.model.loss(torch.tensor([ids], dtype=torch.long), torch.tensor([len(ids)])))


def ending(words) -> float:
    """ln p of the end of a text after its words."""
    ids = [BOUNDARY, *LM.tokenizer.encode(" ".join(words))]
    with torch.inference_mode():
        logits, _ = LM.model.step(
            torch.tensor([ids]), torch.tensor([len(ids)]), LM.model.init_state(1, dtype=torch.float64)
        )
    return float(logits[0, -1].log_softmax(-1)[BOUNDARY])


def beam(ngram, tokenizer=PHONES, width=6) -> PrefixBeam:
    return PrefixBeam(
        width, guide=Guides([WordGuide(tokenizer, ngram, weight=WEIGHT, bonus=BONUS), HotwordGuide()]), lattice=6.0
    )


def reader(neural_weight=NEURAL, lm=LM) -> LatticeLm:
    return LatticeLm(lm.tokenizer, lambda: LmStates(lm.model), weight=WEIGHT, bonus=BONUS, neural_weight=neural_weight)


class TestStates:
    @pytest.mark.parametrize("compiled", [True, False])
    @pytest.mark.parametrize("changes", [{}, {"experts": 3}, {"memory": 4}], ids=["plain", "experts", "memory"])
    def test_a_tree_of_texts_has_the_probabilities_of_each(self, compiled, changes):
        if compiled:
            pytest.importorskip("numba")
        lm = make_lm(**changes)
        assert_probabilities(LmStates(lm.model, compiled), lm, 1e-9)

    @pytest.mark.parametrize("compiled", [True, False])
    def test_so_has_numpy(self, compiled):
        if compiled:
            pytest.importorskip("numba")
        lm = make_lm()
        weights = {name: x.numpy() for name, x in lm.model.state_dict().items()}
        assert_probabilities(NumpyLmStates(NumpyLm(weights), compiled), lm, 1e-5)

    def test_half_weights_change_next_to_nothing(self):
        lm = make_lm()
        plain = lm.model.float()
        half = with_half_weights(plain)
        if half is plain:
            pytest.skip("this CPU does not multiply by matrices of float16")
        found = []
        for net in (plain, half):
            states = LmStates(net)
            slot, _ = states.start()
            found.append(states.extend([slot] * 3, states.take(3), [2, 3, 4]))
        assert 0 < np.abs(found[0] - found[1]).max() < 0.01
        assert with_half_weights(LM.model) is LM.model  # float64: a definition, not to be rounded

    def test_slots_that_are_given_back_are_used_again(self):
        states = LmStates(LM.model)
        slot, _ = states.start()
        for _ in range(20):
            states.extend([slot] * 50, states.take(50), [2] * 50)
            states.keep([slot])
        assert len(states._conv[0]) == SLOTS
        again, _ = states.start()
        assert again != slot


def test_long_speech_takes_no_more_memory(ngram, monkeypatch):
    """Texts are summed in parts; where one is too long by itself, its best alignment counts."""
    x = frames(2, 1, T, 6)[0].numpy()
    _, lattice = found(beam(ngram), x)
    whole = {path.hypothesis.words: path.hypothesis.score for path in reader().paths(lattice, x)}
    assert len(whole) > 1
    longest = max(len(path.hypothesis.tokens) for path in reader().paths(lattice, x))
    monkeypatch.setattr(text_sums, "MOST", T * (2 * longest + 1))
    assert {p.hypothesis.words: p.hypothesis.score for p in reader().paths(lattice, x)} == pytest.approx(whole)
    monkeypatch.setattr(text_sums, "MOST", T)
    assert text_log_probs(x, [(1, 2)]) is None
    best = {p.hypothesis.words: p.hypothesis.score for p in reader().paths(lattice, x)}
    assert set(best) == set(whole)
    assert max(abs(best[words] - whole[words]) for words in whole) > 0.01


@pytest.mark.parametrize(("tokenizer", "v"), [(CHARS, 5), (PHONES, 6)], ids=["char", "phone"])
@given(seed=st.integers(0, 10**6), phrase=st.sampled_from(["", "b a", "ab"]))
@settings(max_examples=15, deadline=None)
def test_every_text_of_the_lattice_has_the_score_of_its_parts(ngram, tokenizer, v, seed, phrase):
    """Without pruning all texts come, each by its best path; no score depends on how the lattice was read."""
    limits = lattice_lm.PATHS, lattice_lm.ENDS, lattice_lm.BEAM
    lattice_lm.PATHS, lattice_lm.ENDS, lattice_lm.BEAM = 10**6, 10**6, math.inf
    try:
        hotwords = Hotwords(tokenizer, {phrase: 1.0}) if phrase else None
        x = frames(seed, 1, T, v)[0].numpy()
        _, lattice = found(beam(ngram, tokenizer), x, hotwords)
        read = reader().paths(lattice, x, hotwords)
    finally:
        lattice_lm.PATHS, lattice_lm.ENDS, lattice_lm.BEAM = limits
    best: dict[tuple[str, ...], tuple[float, float, tuple[int, ...]]] = {}
    for words, acoustic, lm, arcs in paths(lattice):
        if any(not lattice.texts[arc] and lattice.units[arc] for arc in arcs):
            continue  # it ends within a word
        # Of all ways to a text the best counts: by acoustics and what the n-gram keeps.
        score = acoustic + (1 - NEURAL / WEIGHT) * lm
        if words not in best or score > best[words][0] + 1e-9:
            best[words] = score, lm, arcs
    assert {path.hypothesis.words for path in read} == set(best)
    for path in read:
        words, tokens = path.hypothesis.words, path.hypothesis.tokens
        assert path.lm == pytest.approx(best[words][1])
        assert path.neural == pytest.approx(log_p(LM, words))
        assert path.hypothesis.score == pytest.approx(text_log_probs(x, [tokens])[0])
        said = hotwords.text_score(tokens, words) if hotwords else 0.0
        assert path.besides == pytest.approx(BONUS * len(words) + said)
        # With all of the n-gram's weight nothing of it is left.
        alone = path.hypothesis.score + path.besides + WEIGHT * path.neural
        assert path.scored(WEIGHT, WEIGHT).score == pytest.approx(alone)
        assert path.scored(WEIGHT, 0.0).score == pytest.approx(path.hypothesis.score + path.lm)
        assert len(path.hypothesis.times) == len(tokens)
        assert list(path.hypothesis.times) == sorted(path.hypothesis.times)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_pruning_finds_fewer_texts_and_never_others(ngram, seed):
    """Every text that the usual limits leave is one of those without limits, and none beats the best of these."""
    x = frames(seed, 1, 14, 6)[0].numpy()
    _, lattice = found(beam(ngram, width=12), x)
    usual, _ = reader()(lattice, x, None, [])
    limits = lattice_lm.PATHS, lattice_lm.BEAM, lattice_lm.ENDS
    try:
        lattice_lm.PATHS, lattice_lm.BEAM, lattice_lm.ENDS = 10**6, math.inf, 10**6
        every = {h.words: h.score for h in reader()(lattice, x, None, [])[0]}
        lattice_lm.PATHS, lattice_lm.BEAM, lattice_lm.ENDS = 1, 2.0, 1
        few, _ = reader()(lattice, x, None, [])
    finally:
        lattice_lm.PATHS, lattice_lm.BEAM, lattice_lm.ENDS = limits
    assert {h.words for h in usual} <= set(every)
    assert len(few) == 1
    assert usual[0].score <= max(every.values()) + 1e-9
    assert usual == sorted(usual, key=lambda h: -h.score)


def test_the_neural_model_decides(ngram, unpruned):
    """With a weight far above the acoustic scores, the text is the likeliest of the lattice by the neural model alone."""
    x = frames(11, 1, T, 6)[0].numpy()
    _, lattice = found(beam(ngram), x)
    strong = reader().weighted(1e6, 0.0, 1e6)
    texts = {words for words, _, _, arcs in paths(lattice) if all(lattice.texts[a] for a in arcs)}
    best = max(texts, key=lambda words: log_p(LM, words))
    lattice = lattice._replace(lm=lattice.lm * 0)
    assert strong(lattice, x, None, [])[0][0].words == best


def test_a_lattice_without_whole_words_leaves_the_hypotheses_as_they_are(ngram):
    first = [Hypothesis((2,), -1.0, (0,), ())]
    within = Lattice(
        times=np.array([0, 3]), start=np.array([0]), end=np.array([1]), word=np.array([0]), acoustic=np.array([-1.0]),
        lm=np.array([-50.0]), words=("",), units=((2,),), begun=((0,),),
    )  # fmt: skip
    assert reader()(within, frames(0, 1, 3, 6)[0].numpy(), None, first)[0] == first
    nothing = within._replace(units=((),), begun=((),), lm=np.array([0.0]))
    (empty,), _ = reader()(nothing, frames(0, 1, 3, 6)[0].numpy(), None, first)
    assert (empty.words, empty.tokens) == ((), ())


def test_threads_may_share_it(ngram):
    lattices = []
    for seed in range(8):
        x = frames(seed, 1, 14, 6)[0].numpy()
        lattices.append((found(beam(ngram, width=12), x)[1], x))
    read = reader()
    expected = [read(lattice, x, None, [])[0] for lattice, x in lattices]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(read, lattice, x, None, []) for _ in range(4) for lattice, x in lattices]
        assert [job.result()[0] for job in jobs] == expected * 4


def test_the_lattice_comes_back_with_the_scores_of_the_best_way_over_each_arc(ngram, unpruned):
    x = frames(3, 1, T, 6)[0].numpy()
    _, lattice = found(beam(ngram), x)
    read = reader()
    texts, after = read(lattice, x, None, [])
    assert texts
    # The best path of all, alignments not summed, is the best path of the lattice that comes back.
    ways = [w for w in paths(after) if all(after.texts[arc] or not after.units[arc] for arc in w[3])]
    _, acoustic, lm, _ = max(ways, key=lambda way: way[1] + way[2])
    share = NEURAL / WEIGHT
    expected = max(
        a + (1 - share) * g + share * BONUS * len(w) + NEURAL * (log_p(LM, w) - ending(w))
        for w, a, g, arcs in paths(lattice)
        if all(lattice.texts[arc] or not lattice.units[arc] for arc in arcs)
    )
    assert acoustic + lm == pytest.approx(expected)
    assert after._replace(lm=lattice.lm) == lattice


class TestPasses:
    def passes(self, ngram) -> TwoPass:
        return TwoPass(beam(ngram), reader=reader())

    @given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 12), max_size=3))
    @settings(max_examples=10, deadline=None)
    def test_chunks_and_rows_give_what_the_whole_gives(self, ngram, seed, cuts):
        passes, x, lengths = self.passes(ngram), frames(seed, 2, 12, 6), torch.tensor([12, 9])

        def given_frames(rows, low, high):
            some = x[rows, low:high].clone()
            n = (lengths[rows] - low).clamp(0, high - low)
            for row, k in enumerate(n.tolist()):
                some[row, k:] = math.nan  # what is after a row's end is not read
            return Frames(some, some, n)

        whole = passes.finish(passes.step(given_frames([0, 1], 0, 12), passes.init_state(2)))
        expected = passes.hypotheses(whole, 3)
        state = passes.init_state(2)
        for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), 12], strict=True):
            state = passes.step(given_frames([0, 1], low, high), state)
        assert passes.hypotheses(passes.finish(state), 3) == expected
        rows = [passes.finish(passes.step(given_frames([row], 0, 12), passes.init_state(1))) for row in (1, 0)]
        swapped = passes.hypotheses(passes.take(passes.stack(rows), [1, 0]), 3)
        assert [[h.words for h in row] for row in swapped] == [[h.words for h in row] for row in expected]

    def test_partial_texts_are_the_first_passs(self, ngram):
        passes, plain = self.passes(ngram), TwoPass(beam(ngram))
        x = Frames(frames(4, 1, 9, 6), frames(4, 1, 9, 6), torch.tensor([9]))
        assert passes.first_pass(passes.step(x, passes.init_state(1))) == plain.first_pass(
            plain.step(x, plain.init_state(1))
        )

    def test_a_session_may_do_without(self, ngram):
        passes, plain = self.passes(ngram), TwoPass(beam(ngram))
        x = Frames(frames(4, 2, 9, 6), frames(4, 2, 9, 6), torch.tensor([9, 9]))
        both = passes.stack([passes.init_state(1, reread=False), passes.init_state(1)])
        found = passes.hypotheses(passes.finish(passes.step(x, both)))
        assert found[:1] == plain.hypotheses(plain.finish(plain.step(x, plain.init_state(2))))[:1]
        assert found[1:] == passes.hypotheses(passes.finish(passes.step(x, passes.init_state(2))))[1:]
        assert found[0][0].score != found[1][0].score

    def test_hotwords_that_are_not_said_change_nothing(self, ngram):
        passes = self.passes(ngram)
        x = Frames(frames(4, 1, 9, 6), frames(4, 1, 9, 6), torch.tensor([9]))
        plain = passes.hypotheses(passes.finish(passes.step(x, passes.init_state(1))))
        unsaid = Hotwords(PHONES, {"b b b b b": 0.01})
        state = passes.finish(passes.step(x, passes.init_state(1, unsaid)))
        assert passes.hypotheses(state) == plain
        assert passes.without_hotwords(state) == plain[0]

    @given(seed=st.integers(0, 10**6), phrase=st.sampled_from(["a", "b", "ab", "a b"]))
    @settings(max_examples=60, deadline=None)
    def test_a_hotword_that_the_language_model_takes_back_changes_nothing(self, ngram, seed, phrase):
        passes, hotwords = self.passes(ngram), Hotwords(PHONES, {phrase: 0.4})
        x = frames(seed, 1, 9, 6)
        x = Frames(x, x, torch.tensor([9]))
        (found,) = passes.hypotheses(passes.finish(passes.step(x, passes.init_state(1, hotwords))))[0]
        (plain,) = passes.hypotheses(passes.finish(passes.step(x, passes.init_state(1))))[0]
        if not hotwords.text_score(found.tokens, found.words):
            assert found == plain


class TestSettings:
    @pytest.fixture
    def place(self, tmp_path):
        make_model(tmp_path / "model")
        write_arpa(tmp_path)
        self.write(tmp_path / "lm", make_lm())
        return tmp_path

    def write(self, folder, lm):
        config = dataclasses.replace(Config(), lm=lm.model.config)
        save_lm(folder, lm.model.float(), config, lm.tokenizer, perplexity=9.0)

    def settings_of(self, place, *more):
        return decoding("search.method=beam", f"lm={place / 'lm.arpa'}", f"lm.neural={place / 'lm'}", *more)

    def test_where_there_are_lattices_it_reads_them(self, place):
        loaded = load_model(place / "model")
        assert isinstance(neural_lm(loaded, self.settings_of(place), alone=False)[1], LatticeLm)
        _, other = neural_lm(loaded, self.settings_of(place, "search.lattice=0"), alone=False)
        assert not other.reads_lattices
        assert two_pass(loaded, self.settings_of(place)).reader.weight == 0.5

    def test_live_sessions_read_again_unless_told_otherwise(self, place):
        recognizer = Recognizer(load_model(place / "model"), self.settings_of(place))
        assert recognizer.session().search.reread
        recognizer = Recognizer(load_model(place / "model"), self.settings_of(place, "lm.neural_live=false"))
        assert not recognizer.session().search.reread
        assert recognizer.session(partials=False).search.reread  # of a file

    def test_a_service_lets_live_sessions_do_without(self, place):
        from samba_asr.serve.models import load
        from samba_asr.serve.settings import Settings

        given = f"decode.search.method=beam decode.lm={place / 'lm.arpa'} decode.lm.neural={place / 'lm'}".split()
        for more, live in ((), False), (("decode.lm.neural_live=true",), True):
            (recognizer,) = load(Settings({"toy": place / "model"}, decode=(*given, *more))).values()
            assert recognizer.decode.lm.neural_live == live

    def test_more_weight_than_the_ngram_has(self, place):
        with pytest.raises(
            UserError, match=r"neural_weight=0\.6 is taken from the n-gram's decode\.lm\.weight=0\.5: give at"
        ):
            two_pass(load_model(place / "model"), self.settings_of(place, "lm.neural_weight=0.6"))

    @pytest.fixture
    def absent(self, monkeypatch):
        """Names of packages that are not installed."""
        names, find = {"torch"}, importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *more: None if name in names else find(name, *more)
        )
        return names

    def test_without_torch_it_reads_lattices_in_numpy(self, place, ngram, absent):
        loaded = load_model(place / "model")
        _, found_reader = neural_lm(loaded, self.settings_of(place), alone=False)
        x = frames(5, 1, 14, 6)[0].numpy()
        _, lattice = found(beam(ngram, width=12), x)
        absent.clear()
        _, plain = neural_lm(loaded, self.settings_of(place), alone=False)
        absent.add("torch")
        assert isinstance(found_reader.new_states(), NumpyLmStates)
        got, want = (some(lattice, x, None, [])[0] for some in (found_reader, plain))
        assert [h.words for h in got] == [h.words for h in want]
        assert [h.score for h in got] == pytest.approx(
            [h.score for h in want], abs=0.01
        )  # torch's matrices have 16 bits

    def test_what_needs_torch_leaves_the_ngram_alone(self, place, absent, caplog):
        loaded = load_model(place / "model")
        own = make_lm()._replace(tokenizer=loaded.tokenizer)
        self.write(place / "own", random_lm(own.model.config, loaded.tokenizer))
        self.write(place / "experts", make_lm(experts=2))
        for name, more in (("lm", ["search.lattice=0"]), ("own", []), ("experts", [])):
            caplog.clear()
            chosen = decoding("search.method=beam", f"lm={place / 'lm.arpa'}", f"lm.neural={place / name}", *more)
            assert neural_lm(loaded, chosen, alone=False) == (None, None)
            assert f"decode.lm.neural={place / name} needs torch, which is not installed: the n-gram" in caplog.text

    def test_pieces_need_their_package(self, place, absent, caplog):
        absent.add("sentencepiece")
        (place / "lm" / "tokenizer.json").rename(place / "lm" / "tokenizer.model")
        assert neural_lm(load_model(place / "model"), self.settings_of(place), alone=False) == (None, None)
        assert "needs the package sentencepiece, which is not installed: the n-gram reads alone" in caplog.text

    @pytest.mark.parametrize("damage", ["cut", "shape", "nan", "name", "none"])
    def test_a_damaged_file_is_refused_without_torch_too(self, place, absent, damage):
        path = place / "lm" / "lm.safetensors"
        weights = load_file(path)
        if damage == "shape":
            weights["norm.bias"] = weights["norm.bias"][:-1].clone()
        elif damage == "nan":
            weights["norm.bias"][0] = torch.nan
        elif damage == "name":
            weights["more"] = weights["norm.bias"].clone()
        elif damage == "none":
            del weights["norm.bias"]
        save_file(weights, path)
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(UserError, match="not a model of language"):
            neural_lm(load_model(place / "model"), self.settings_of(place), alone=False)


def test_a_texts_words_are_spelled_by_its_tokens_where_they_can_be(ngram):
    x = frames(7, 1, 9, 5)[0].numpy()
    state, lattice = found(beam(ngram, CHARS), x)
    first = beam(ngram, CHARS).hypotheses(state)[0]
    assert first[0].words is None
    assert all(h.words is None for h in reader()(lattice, x, None, first)[0])
