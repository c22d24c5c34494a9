"""Minimum word error rate: the expectation over the best texts by its definition, its gradient, and the search in training."""

from __future__ import annotations

import dataclasses
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.config import Config, DecodeConfig, HydraConfig, LossConfig, ModelConfig, SearchConfig
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.training.nbest import n_best
from samba_asr.training.objectives.mwer import MwerTerm, Reading, ctc_losses, expected, word_errors
from samba_asr.training.objectives.speech import SpeechObjective
from samba_asr.training.objectives.terms import Encoded
from samba_asr.training.tasks import SpeechTask
from tests.contract import awake
from tests.models.tiny import batch, tiny
from tests.support.work import CPU
from tests.training.toy import TOKENIZER

LOSS = LossConfig(ctc=0.0, mwer=1.0)
BEAM = SearchConfig(method="beam", beam=16, prune=50.0)


def by_definition(scores, errors, rows, b):
    """Row by row, in Python numbers."""
    found = []
    for row in range(b):
        mine = [(s, w) for s, w, r in zip(scores, errors, rows, strict=True) if r == row]
        total = sum(math.exp(s) for s, _ in mine)
        found.append(sum(math.exp(s) / total * w for s, w in mine))
    return found


SMALL = ModelConfig(d_model=16, layers=1, mixer=HydraConfig(headdim=16, d_state=8))

# --- the expectation


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.tuples(st.floats(-20, 5), st.integers(0, 9)), min_size=1, max_size=5), min_size=1, max_size=4)
)
def test_it_is_the_mean_number_of_errors_weighted_by_probability(rows):
    flat = [(s, float(w), i) for i, row in enumerate(rows) for s, w in row]
    scores, errors, at = ([x[k] for x in flat] for k in range(3))
    value = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    errors_of = torch.tensor(errors, dtype=torch.float64)
    got = expected(value, errors_of, torch.tensor(at), len(rows))
    want = torch.tensor(by_definition(scores, errors, at, len(rows)), dtype=torch.float64)
    torch.testing.assert_close(got, want)
    (gradient,) = torch.autograd.grad(got.sum(), value)
    most = torch.tensor(scores, dtype=torch.float64)
    p = torch.stack([(most[i] - most[[r == at[i] for r in at]].logsumexp(0)).exp() for i in range(len(at))])
    torch.testing.assert_close(gradient, p * (errors_of - got.detach()[at]), atol=1e-9, rtol=1e-6)


def test_scores_of_long_audio_do_not_underflow():
    got = expected(torch.tensor([-4000.0, -4001.0, -9000.0]), torch.tensor([1.0, 0.0, 7.0]), torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(got, torch.tensor([1 / (1 + math.exp(-1)), 7.0]))


def test_errors_are_those_of_words():
    found = [[Reading((), text, 0.0) for text in texts] for texts in (("A B C", "A X C D", ""), ("D", "D D"), ("",))]
    assert word_errors(["A B C", "D", ""], found).tolist() == [0, 2, 3, 0, 1, 0]


def test_each_text_has_the_ctc_loss_of_its_own_frames():
    torch.manual_seed(0)
    log_probs, lengths = torch.randn(2, 6, 4).double().log_softmax(-1), torch.tensor([6, 3])
    texts, rows = [(1, 2, 2), (), (3,)], [0, 1, 1]
    poisoned = log_probs.clone()
    poisoned[1, 3:] = torch.nan
    got = ctc_losses(poisoned.requires_grad_(), lengths, rows, texts)
    for value, text, row in zip(got, texts, rows, strict=True):
        t, u = int(lengths[row]), len(text)
        alone = log_probs[row, :t, None], torch.tensor([[*text, 0]]), torch.tensor([t]), torch.tensor([u])
        torch.testing.assert_close(value, F.ctc_loss(*alone, reduction="none")[0])
    (gradient,) = torch.autograd.grad(got.sum(), poisoned)
    assert gradient[1, :3].isfinite().all()
    assert not gradient[1, 3:].any()


# --- the search


def config(loss=LOSS, search=BEAM) -> Config:
    return Config(model=tiny(dropout=0.0, blocks=()), loss=loss, decode=DecodeConfig(search=search))


def test_the_best_texts_are_the_searchs_with_its_scores():
    torch.manual_seed(0)
    log_probs = torch.randn(2, 6, TOKENIZER.vocab_size).log_softmax(-1)
    log_probs[1, 2:] = torch.nan  # padding
    lengths = torch.tensor([6, 2])
    found = n_best(config(search=dataclasses.replace(BEAM, beam=512)), TOKENIZER, None)(log_probs, lengths)
    assert [len(readings) for readings in found] == [8, 8]
    for row, readings in enumerate(found):
        got = torch.tensor([r.score for r in readings])
        want = -ctc_losses(log_probs, lengths, [row] * 8, [r.tokens for r in readings])
        torch.testing.assert_close(got, want)  # the beam is wide enough to miss no alignment
        assert (got.diff() <= 0).all()
        assert [r.text for r in readings] == [TOKENIZER.decode(r.tokens) for r in readings]


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (config(dataclasses.replace(LOSS, mwer_nbest=1)), "loss.mwer_nbest=1"),
        (config(search=dataclasses.replace(BEAM, beam=4)), "decode.search.beam=4"),
        (config(search=SearchConfig()), "loss.mwer=1 needs several hypotheses, and greedy search has one"),
    ],
)
def test_a_search_that_has_no_other_texts_is_refused(whole, message):
    with pytest.raises(UserError, match=message):
        n_best(whole, TOKENIZER, None)


# --- in the objective


def objective(whole: Config, read=None) -> SpeechObjective:
    torch.manual_seed(0)
    model = awake(AsrModel(whole.model)).eval()
    return SpeechObjective(model, whole, read=read or n_best(whole, TOKENIZER, None)).double()


def speech():
    made = batch()
    texts = [
        TOKENIZER.decode(row[:n]) for row, n in zip(made.tokens.tolist(), made.token_lengths.tolist(), strict=True)
    ]
    return made._replace(audio=made.audio.double(), texts=texts)


def test_its_gradient_is_that_of_the_expectation_over_the_same_texts():
    """By finite differences of CTC's scores of texts that stay the same, as a language model's part of the score does."""
    texts = [[("a b", (3, 2, 4), 0.5), ("b", (4,), 0.0)], [("a", (3,), 0.0), ("", (), 1.0)], [("b", (4,), 0.0)]]
    whole, given = config(), speech()
    model = objective(whole).net
    weight = model.ctc.linear.bias

    def value():
        log_probs, lengths = model.log_probs(given.audio, given.lengths)
        rows = [i for i, row in enumerate(texts) for _ in row]
        ctc = ctc_losses(log_probs, lengths, rows, [tokens for row in texts for _, tokens, _ in row])
        scores = (torch.tensor([more for row in texts for *_, more in row]).double() - ctc).tolist()
        errors = word_errors(given.texts, [[Reading((), text, 0.0) for text, *_ in row] for row in texts]).tolist()
        return by_definition(scores, errors, rows, 3)

    def read(log_probs, lengths):
        rows = [i for i, row in enumerate(texts) for _ in row]
        ctc = iter(ctc_losses(log_probs, lengths, rows, [tokens for row in texts for _, tokens, _ in row]).tolist())
        return [[Reading(tokens, text, more - next(ctc)) for text, tokens, more in row] for row in texts]

    found = SpeechObjective(model, whole, read=read).double()(given)
    torch.testing.assert_close(found.parts["mwer"], torch.tensor(value()).double())
    torch.testing.assert_close(found.loss, found.parts["mwer"])
    (gradient,) = torch.autograd.grad(found.loss.sum(), weight)
    for unit in range(TOKENIZER.vocab_size):
        with torch.no_grad():
            weight[unit] += 1e-5
            more = sum(value())
            weight[unit] -= 2e-5
            less = sum(value())
            weight[unit] += 1e-5
        assert (more - less) / 2e-5 == pytest.approx(float(gradient[unit]), abs=1e-6)


def test_padding_is_not_read():
    given = speech()
    behind = torch.arange(given.audio.shape[1]) >= given.lengths[:, None]
    poisoned = given._replace(audio=given.audio.masked_fill(behind, float("nan")))
    whole = objective(config())
    torch.testing.assert_close(whole(poisoned).loss, whole(given).loss)
    for row in range(3):
        torch.testing.assert_close(whole(given.rows(row, row + 1)).loss[0], whole(given).loss[row])


def test_a_text_that_was_second_becomes_the_first():
    term = MwerTerm(n_best(config(), TOKENIZER, None))
    logits = torch.randn(2, 6, TOKENIZER.vocab_size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    lengths, none = torch.tensor([6, 5]), torch.zeros(2)
    texts = [
        next(r.text for r in row if r.text != row[0].text)
        for row in term.read(logits.log_softmax(-1).detach(), lengths)
    ]
    given = batch().rows(0, 2)._replace(texts=texts)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        log_probs = logits.log_softmax(-1)
        errors = term(AsrModel(tiny()), Encoded(none, lengths, log_probs, none, none, none, given))
        errors.sum().backward()
        optimizer.step()
    assert errors.max() < 0.1
    assert [row[0].text for row in term.read(log_probs.detach(), lengths)] == texts


def test_batches_without_texts_and_an_objective_without_a_search_are_refused():
    with pytest.raises(UserError, match=r"loss\.mwer needs batches with texts"):
        objective(config())(speech()._replace(texts=None))
    with pytest.raises(UserError, match=r"loss\.mwer needs the texts of a search"):
        SpeechObjective(AsrModel(tiny()), config())


def test_the_task_validates_by_the_search(corpus, caplog):
    """Checkpoints are ranked by its word errors, even where CTC-CRF trains too."""
    whole = config(LossConfig(ctc=0.1, crf=0.1, mwer=1.0))
    whole = dataclasses.replace(whole, model=dataclasses.replace(SMALL, vocab_size=TOKENIZER.vocab_size))
    task = SpeechTask(whole, TOKENIZER, corpus, corpus[:2])
    made = task.objective(task.new_net())
    with caplog.at_level(logging.INFO):
        found = task.validate(made, CPU, torch.float32, lambda: None, "here")
    assert found.score.name == "WER"
    assert {"wer", "crf", "ctc"} <= found.values.keys()
