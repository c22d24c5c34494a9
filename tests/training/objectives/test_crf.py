"""The trigram of units, and what training makes of it: a probability of each text among all others."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from samba_asr.config import Config, LossConfig
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.training.objectives.crf import text_log_prob, trigram
from samba_asr.training.objectives.speech import SpeechObjective
from tests.contract import awake
from tests.models.tiny import FRAME, batch, tiny

TEXTS = [[1, 2, 3], [1, 2, 4], [2, 2], []]
CRF = LossConfig(ctc=0.2, crf=1.5)


def test_behind_every_pair_of_units_the_probabilities_sum_to_one():
    table = trigram(TEXTS, 5)
    assert table.isfinite().all()
    torch.testing.assert_close(table.exp().sum(-1), torch.ones(5, 5))


def test_it_is_witten_and_bells():
    table = trigram(TEXTS, 5).exp()
    # units and ends, each once more than seen: 0 four times, 1 twice, 2 four times, 3 and 4 once
    single = (torch.tensor([4, 2, 4, 1, 1]) + 1) / (12 + 5)
    behind_2 = (torch.tensor([1, 0, 1, 1, 1]) + 4 * single) / (4 + 4)  # four different ones
    behind_1_2 = (torch.tensor([0, 0, 0, 1, 1]) + 2 * behind_2) / (2 + 2)
    torch.testing.assert_close(table[1, 2], behind_1_2)
    torch.testing.assert_close(table[4, 2], behind_2)  # the pair was never seen


def test_a_text_has_the_product_of_its_units_and_its_end():
    table = trigram(TEXTS, 5)
    tokens, lengths = torch.tensor([[1, 2, 9], [9, 9, 9], [4, 4, 4]]), torch.tensor([2, 0, 3])
    want = [table[0, 0, 1] + table[0, 1, 2] + table[1, 2, 0], table[0, 0, 0]]
    want.append(table[0, 0, 4] + table[0, 4, 4] + table[4, 4, 4] + table[4, 4, 0])
    torch.testing.assert_close(text_log_prob(table, tokens, lengths), torch.stack(want))


def test_more_units_than_pairs_can_be_summed_over_are_refused():
    with pytest.raises(UserError, match="5000 are too many"):
        trigram([], 5000)


def objective(loss=CRF, trigram=trigram(TEXTS, 5)):  # noqa: B008  (a constant)
    torch.manual_seed(0)
    model = awake(AsrModel(tiny())).eval()
    return SpeechObjective(model, Config(model=model.config, loss=loss), trigram=trigram).double()


def test_the_probabilities_of_all_texts_sum_to_one():
    """Of the shortest audio, 4 frames: every text of up to 4 units of the 4 there are."""
    given = batch()
    texts = [text for u in range(5) for text in itertools.product(range(1, 5), repeat=u)]
    tokens = torch.tensor([[*text, *[0] * (4 - len(text))] for text in texts])
    many = given._replace(
        audio=given.audio[:1, : 4 * FRAME].double().expand(len(texts), -1),
        lengths=torch.full((len(texts),), 4 * FRAME),
        tokens=tokens,
        token_lengths=torch.tensor([len(text) for text in texts]),
    )
    parts = objective()(many).parts
    possible = parts["ctc"] != 0  # a repeated unit wants a blank between: some texts do not fit
    assert float((-parts["crf"][possible]).exp().sum().detach()) == pytest.approx(1.0)


def test_it_has_its_weight_and_a_text_that_does_not_fit_counts_as_zero():
    given = batch()
    given = given._replace(audio=given.audio.double(), lengths=torch.tensor([12, 9, 1]) * FRAME)
    given = given._replace(token_lengths=torch.tensor([3, 1, 2]))
    whole = objective()
    losses = whole(given)
    ctc, crf = losses.parts["ctc"], losses.parts["crf"]
    torch.testing.assert_close(losses.loss, 0.2 * ctc + 1.5 * crf)
    assert crf[2] == 0
    assert (crf[:2] > 0).all()
    losses.loss.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in whole.parameters())
    assert "crf" not in objective(dataclasses.replace(CRF, crf=0.0))(given).parts


def test_the_trigram_goes_where_the_model_goes_and_into_no_file():
    whole = objective()
    assert whole.crf.trigram.dtype == torch.float64
    assert not any("trigram" in name for name in whole.state_dict())


def test_without_a_trigram_it_says_what_is_missing():
    with pytest.raises(UserError, match="needs a trigram of the training texts"):
        objective(trigram=None)
