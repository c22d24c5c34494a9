"""Text that the decoder writes: CTC probabilities of beginnings, the best text of all, chunks, and that it cannot stream."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import ctc_loss

from samba_asr.config import DecoderConfig, load
from samba_asr.decoding import ctc_prefix
from samba_asr.decoding.build import two_pass
from samba_asr.decoding.generate import DecoderSearch
from samba_asr.decoding.rescore import TwoPass
from samba_asr.errors import UserError
from samba_asr.models.decoder import MambaDecoder
from samba_asr.models.folder import load_model
from samba_asr.recognizer import Recognizer
from samba_asr.runtime.base import Frames
from tests.contract import awake
from tests.decode_settings import decoding
from tests.support.model_folder import make_model
from tests.support.search import brute_force, frames

V, T = 4, 4


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    return awake(MambaDecoder(DecoderConfig(layers=2, d_model=8, d_state=4, headdim=8), 6, V)).double().eval()


def encoded(rows=1, t=T):
    rng = torch.Generator().manual_seed(1)
    found = torch.randn(rows, t, 6, generator=rng, dtype=torch.float64).numpy()
    return Frames(found, frames(3, rows, t, V, 1.0).numpy(), np.full(rows, t))


def texts(t=T):
    return [list(g) for n in range(t + 1) for g in itertools.product(range(1, V), repeat=n)]


def of_decoder(decoder, memory, text) -> float:
    tokens = torch.tensor([text], dtype=torch.long).reshape(1, -1)
    with torch.no_grad():
        return -decoder.loss(tokens, torch.tensor([len(text)]), memory).item()


def test_beginnings_have_the_probability_of_all_texts_that_begin_so():
    x = frames(0, 1, 5, V)[0].numpy()
    total = {g: score for g, (score, *_) in brute_force(x).items()}
    for g in itertools.chain.from_iterable(itertools.product(range(1, V), repeat=n) for n in range(1, 4)):
        paths, begins, last = ctc_prefix.start(x), np.zeros(1), 0
        for unit in g:
            begins, paths = ctc_prefix.extend(x, paths, np.array([last]), np.array([unit]))
            last = unit
        want = np.logaddexp.reduce([score for h, score in total.items() if h[: len(g)] == g] or [-np.inf])
        np.testing.assert_allclose(begins, want, rtol=1e-9)
        np.testing.assert_allclose(ctc_prefix.whole(paths), total.get(g, -np.inf), rtol=1e-9)


def test_decoder_steps_are_the_whole(decoder):
    memory = decoder.absorb(encoded(2).encoder, np.array([4, 2]), decoder.init_memory(2))
    tokens, lengths = torch.tensor([[1, 3, 2], [2, 1, 0]]), torch.tensor([3, 2])
    whole = decoder(tokens, lengths, memory)
    state, found = decoder.init_text(memory), []
    for token in torch.cat([torch.zeros(2, 1, dtype=torch.long), tokens], 1).T:
        logits, state = decoder.step(token[:, None], torch.ones(2, dtype=torch.long), state)
        found.append(logits)
    torch.testing.assert_close(torch.cat(found, 1)[0], whole[0])
    torch.testing.assert_close(torch.cat(found, 1)[1, :3], whole[1, :3])


@pytest.mark.parametrize(("share", "bonus"), [(0.0, 0.0), (0.3, 0.0), (1.0, 0.0), (0.3, 1.5)])
def test_a_wide_search_finds_the_best_of_all_texts(decoder, share, bonus):
    given = encoded()
    search = TwoPass(DecoderSearch(beam=200, ctc=share, bonus=bonus), decoder)
    state = search.finish(search.step(given, search.init_state(1)))
    found = search.hypotheses(state, 3)[0]
    memory = decoder.absorb(given.encoder, given.lengths, decoder.init_memory(1))
    log_probs, scores = torch.from_numpy(given.log_probs).transpose(0, 1), {}
    for text in texts():
        sizes = torch.tensor([T]), torch.tensor([len(text)])
        ctc = -ctc_loss(
            log_probs, torch.tensor([text], dtype=torch.long).reshape(1, -1), *sizes, reduction="none"
        ).item()
        if ctc > -np.inf:
            scores[tuple(text)] = (1 - share) * of_decoder(decoder, memory, text) + share * ctc + bonus * len(text)
    best = sorted(scores, key=lambda g: -scores[g])[:3]
    assert [h.tokens for h in found] == best
    np.testing.assert_allclose([h.score for h in found], [scores[g] for g in best], rtol=1e-5)  # `loss` is float32
    assert all(len(h.times) == len(h.tokens) for h in found)


def test_chunks_and_other_rows_change_nothing(decoder):
    given, search = encoded(2, 7), TwoPass(DecoderSearch(beam=3), decoder)
    whole = search.hypotheses(search.finish(search.step(given, search.init_state(2))), 2)
    state = search.init_state(2)
    for a, b in ((0, 2), (2, 3), (3, 7)):
        state = search.step(Frames(given.encoder[:, a:b], given.log_probs[:, a:b], np.full(2, b - a)), state)
    assert [[h.tokens for h in some] for some in search.hypotheses(state, 2)] == [
        [h.tokens for h in some] for some in whole
    ]
    alone = search.step(Frames(given.encoder[1:], given.log_probs[1:], np.array([7])), search.init_state(1))
    assert search.hypotheses(alone, 2)[0][0].tokens == whole[1][0].tokens


def test_no_frames_are_an_empty_text(decoder):
    search = TwoPass(DecoderSearch(), decoder)
    assert search.hypotheses(search.finish(search.init_state(1)))[0][0].tokens == ()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("generate") / "model", "model.decoder.layers=1")


def test_whole_files_are_written_and_streams_refused_by_name(folder):
    recognizer = Recognizer.load(
        folder, device="cpu", settings=["decode.search.method=decoder", "decode.search.beam=2"]
    )
    audio = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    found = recognizer.recognize(audio)
    assert found.text
    for refused in (recognizer.session, lambda: next(recognizer.listen(audio))):
        with pytest.raises(
            UserError, match=r"decode\.search\.method=decoder cannot stream.*use decode\.search\.method=beam"
        ):
            refused()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["search.rescore=0.3"], r"decode\.search\.rescore=0\.3: where the decoder writes there is no second pass"),
        (["hotwords=x"], r"decode\.hotwords\.path=x needs a search that they can guide, and decoder search is none"),
    ],
)
def test_settings_that_conflict(folder, settings, message):
    loaded = load_model(folder)
    with pytest.raises(UserError, match=message):
        two_pass(loaded, decoding("search.method=decoder", *settings), loaded.model.decoder)


def test_a_model_without_a_decoder_says_so(tmp_path):
    make_model(tmp_path / "plain")
    with pytest.raises(UserError, match="method=decoder needs a decoder, and this model has none"):
        Recognizer.load(tmp_path / "plain", device="cpu", settings=["decode.search.method=decoder"])
    for setting, message in (("ctc=2", "give CTC's share"), ("unit_bonus=-1", "give nats from 0 to 10")):
        with pytest.raises(UserError, match=f"decode.search.{setting}: {message}"):
            load(overrides=[f"decode.search.{setting}"])
