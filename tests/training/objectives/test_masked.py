"""Reconstruction: what is hidden, or comes later, is not seen; nothing but that is asked."""

from __future__ import annotations

import random

import pytest
import torch

from samba_asr.config import Config, PretrainConfig
from samba_asr.errors import UserError
from samba_asr.training.objectives.masked import Causal, Masked
from samba_asr.training.objectives.pretraining import new_encoder
from tests.contract import awake
from tests.models.tiny import FRAME, batch, noise, tiny
from tests.support.pretraining import hide, losses, remaining_loss, with_and_without_nan_in_the_padding

SPANS = PretrainConfig(span=2, share=0.5)
KINDS = [Masked, Causal]


def make(kind, pretrain=SPANS):
    torch.manual_seed(0)
    model = tiny(layers=2, self_conditioning=(1,))
    made = awake(kind(new_encoder(model), Config(model=model, pretrain=pretrain))).eval()
    if kind is Masked:
        torch.nn.init.normal_(made.mark)
    return made


def test_what_is_hidden_is_not_seen_and_is_what_is_asked(monkeypatch):
    model = make(Masked)
    hide(model, monkeypatch, [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    speech = batch().rows(0, 1)
    other = speech.audio.clone()
    other[0, 3 * FRAME : 7 * FRAME - 10] += 3 * noise(4 * FRAME - 10, seed=2)  # 10: what a later frame's window sees
    rows, guess, truth = model.guess(speech, block=-1, generator=None)
    _, again, others = model.guess(speech._replace(audio=other), block=-1, generator=None)
    assert rows.tolist() == [0, 0, 0, 0]
    assert guess.shape == truth.shape == (4, 16)
    torch.testing.assert_close(guess, again)
    assert (truth - others).abs().max() > 0.1
    seen = speech.audio.clone()
    seen[0, : 2 * FRAME] += 3 * noise(2 * FRAME, seed=3)
    assert (model.guess(speech._replace(audio=seen), block=-1, generator=None)[1] - guess).abs().max() > 1e-4


def test_the_truth_is_the_features_of_the_hidden_frames(monkeypatch):
    model = make(Masked)
    hide(model, monkeypatch, [0, 1] + [0] * 10, [0] * 12, [0] * 6 + [1] + [0] * 5)
    speech = batch()
    features, _ = model.net.features(speech.audio.unsqueeze(-1), speech.lengths)
    rows, guess, truth = model.guess(speech, block=-1, generator=None)
    assert rows.tolist() == [0, 2]
    torch.testing.assert_close(truth, torch.stack([features[0, 4:8].flatten(), features[2, 24:28].flatten()]))
    found = model(speech, block=-1)
    errors = (guess - truth).abs().mean(1)
    torch.testing.assert_close(found.loss, torch.stack([errors[0] * 12, errors[0] * 0, errors[1] * 7]))
    assert found.units.tolist() == [12, 9, 7]


def test_the_mark_is_added_where_frames_are_hidden(monkeypatch):
    model = make(Masked)
    model.net.subsampling.layers[-1].norm.bias.data.fill_(0)
    seen = []
    monkeypatch.setattr(model.net.encoder, "forward", lambda x, lengths, block: (seen.append(x) or x, lengths))
    hide(model, monkeypatch, [0, 1, 1] + [0] * 9)
    for mark in (torch.zeros(8), torch.ones(8)):
        model.mark.data.copy_(mark)
        model.guess(batch().rows(0, 1), block=-1, generator=None)
    torch.testing.assert_close(
        seen[1] - seen[0], torch.tensor([0, 1, 1] + [0] * 9)[None, :, None].expand(1, 12, 8).float()
    )


def test_a_prediction_of_the_mean_costs_the_mean_absolute_value():
    """About .8 for normalized features: sqrt(2 / pi) of a normal distribution."""
    model = make(Masked)
    for p in model.head.parameters():
        torch.nn.init.zeros_(p)
    speech = batch()
    features, lengths = model.net.features(speech.audio.unsqueeze(-1), speech.lengths)
    valid = torch.cat([row[:n] for row, n in zip(features, lengths, strict=True)])
    model.net.features.set_statistics(valid.mean(0), valid.std(0))
    with torch.no_grad():
        sums = model.measure(speech, block=-1, generator=torch.Generator().manual_seed(0))
    assert sums["absolute"][0] / sums["absolute"][1] == pytest.approx(0.8, abs=0.06)
    score = model.score({"absolute": 0.7})
    assert score.lower_is_better
    assert model.describe({"absolute": 0.7}) == "mean absolute error 0.7000 of the predicted features"


def test_two_seeds_hide_other_frames():
    model = make(Masked)
    assert (losses(model, batch(), 1) != losses(model, batch(), 2)).any()


def test_the_next_frame_is_predicted_and_not_seen():
    """Predictions have no gradient from the frame that they predict, nor from later ones."""
    model = make(Causal)
    speech = batch().rows(0, 1)
    features, lengths = model.features(speech, False, None)
    features = features.requires_grad_()
    model.features = lambda *args: (features, lengths)
    _, guess, truth = model.guess(speech, block=-1, generator=None)
    assert guess.shape == (11, 16)
    torch.testing.assert_close(truth, features[0, 4:48].reshape(11, 16))
    for u in (0, 4, 10):
        (gradient,) = torch.autograd.grad(guess[u].sum(), features, retain_graph=True)
        reached = gradient[0].abs().amax(-1) > 0
        assert reached[: 4 * (u + 1)].any()
        assert not reached[4 * (u + 1) :].any()


def test_next_frames_are_predicted_in_blocks_of_one():
    model = make(Causal)
    assert {model.draw_block(random.Random(seed)) for seed in range(20)} == {1}
    assert torch.equal(*(model(batch(), block=block).loss for block in (-1, 3)))
    assert {make(Masked).draw_block(random.Random(seed)) for seed in range(50)} == {-1, 2, 4}


def test_an_utterance_of_one_frame_has_no_next_one():
    one = batch().rows(0, 1)._replace(audio=noise(1, FRAME), lengths=torch.tensor([FRAME]))
    found = make(Causal)(one, block=1)
    assert (found.loss.item(), found.units.item()) == (0, 1)
    assert make(Causal).measure(one, block=1, generator=torch.Generator())["absolute"] == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_behind_the_end_reaches_anything(kind):
    plain, poisoned = with_and_without_nan_in_the_padding(make(kind))
    assert len(plain) > 20
    for a, b in zip(plain, poisoned, strict=True):
        assert torch.equal(a, b)


def test_an_utterance_has_its_loss_whoever_is_beside_it(monkeypatch):
    rows = [[1, 0, 1] * 4, [0, 1, 0] * 3 + [0] * 3, [0, 0, 1] * 2 + [0] * 6]
    for kind in KINDS:
        model = make(kind)
        hide(model, monkeypatch, *rows) if kind is Masked else None
        together = losses(model, batch())
        for i in range(3):
            hide(model, monkeypatch, rows[i]) if kind is Masked else None
            torch.testing.assert_close(losses(model, batch().rows(i, i + 1)), together[i : i + 1])


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind):
    assert remaining_loss(make(kind)) < 0.8


@pytest.mark.parametrize(("name", "value"), [("span", 0), ("share", 0.0), ("share", 1.0)])
def test_what_cannot_be(name, value):
    with pytest.raises(UserError, match=f"pretrain.{name}={value}"):
        make(Masked, PretrainConfig(**{name: value}))
