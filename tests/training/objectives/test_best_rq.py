"""Pretraining: the encoder does not see masked frames, and only masked frames are predicted."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.config import Config, PretrainConfig
from samba_asr.errors import UserError
from samba_asr.training.objectives.best_rq import BestRq
from samba_asr.training.objectives.pretraining import new_encoder
from tests.contract import awake
from tests.models.tiny import FRAME, batch, noise, tiny
from tests.support.pretraining import hide, losses, remaining_loss

CONFIG = PretrainConfig(codes=7, dim=3, span=2, share=0.5)


def best_rq(model=None, pretrain=CONFIG):
    model = model or tiny()
    return BestRq(new_encoder(model), Config(model=model, pretrain=pretrain))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return awake(best_rq(tiny(layers=2, self_conditioning=(1,)))).eval()


def test_codes_are_drawn_once_and_for_all(model):
    torch.manual_seed(99)
    other = best_rq()
    assert torch.equal(model.projection, other.projection)
    assert torch.equal(model.codebook, other.codebook)
    features = noise(2, 10, 4)
    codes = model.codes(features)
    assert codes.shape == (2, 2)  # of whole encoder frames
    assert torch.equal(codes[:, 1:], model.codes(features[:, 4:]))
    near = (model.codebook - torch.nn.functional.normalize(features[0, :4].flatten() @ model.projection, dim=0)).norm(
        dim=1
    )
    assert codes[0, 0] == near.argmin()
    assert best_rq(tiny(subsampling=2)).codes(features).shape == (2, 5)


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    span=st.integers(1, 12),
    share=st.floats(0.05, 0.9),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_hidden_frames_are_valid_and_come_in_spans(lengths, span, share, seed):
    model = best_rq(pretrain=PretrainConfig(span=span, share=share))
    hidden = model.hidden(torch.tensor(lengths), torch.Generator().manual_seed(seed))
    assert hidden.shape == (len(lengths), max(lengths))
    for row, length in zip(hidden, lengths, strict=True):
        assert not row[length:].any()
        assert row.any() == (length > 0)
        runs = "".join("x" if h else " " for h in row[:length].tolist())
        assert all(
            len(run) >= span for run in runs.split() if not runs.endswith(run)
        )  # but for the last, which may be cut


def test_about_as_many_are_hidden_as_one_asks():
    model = best_rq(pretrain=PretrainConfig(span=5, share=0.4))
    hidden = model.hidden(torch.full((50,), 1000), torch.Generator().manual_seed(0)).float().mean()
    assert 0.29 < hidden < 0.37  # 1 - (1 - 0.08) ** 5 = 0.34: spans meet


def test_what_is_hidden_is_not_heard(model, monkeypatch):
    hide(model, monkeypatch, [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    speech, length = noise(1, 12 * FRAME), torch.tensor([12 * FRAME])
    one = batch().rows(0, 1)._replace(lengths=length)

    def guess(x):
        return model.guess(one._replace(audio=x), block=-1, generator=torch.Generator().manual_seed(1))

    rows, logits, codes = guess(speech)
    other = speech.clone()
    other[0, 3 * FRAME : 7 * FRAME - 10] += 3 * noise(
        4 * FRAME - 10, seed=2
    )  # 10: what a later frame's window sees of it
    again, same, others = guess(other)
    assert rows.tolist() == again.tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(logits, same)
    assert (codes != others).any()
    heard = speech.clone()
    heard[0, : 2 * FRAME] += 3 * noise(2 * FRAME, seed=3)
    assert (guess(heard)[1] - logits).abs().max() > 1e-4  # what is not hidden is


def test_nothing_behind_the_end_reaches_anything(model):
    clean = batch()
    behind = torch.arange(clean.audio.shape[1]) >= clean.lengths[:, None]
    found = []
    for audio in (clean.audio, clean.audio.masked_fill(behind, float("nan"))):
        model.zero_grad()
        loss = losses(model, clean._replace(audio=audio))
        loss.sum().backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_an_utterance_has_its_loss_whoever_is_beside_it(model, monkeypatch):
    rows = [[1, 0, 1] * 4, [0, 1, 0] * 3 + [0] * 3, [0, 0, 1] * 2 + [0] * 6]
    monkeypatch.setattr("samba_asr.training.objectives.best_rq.NOISE", 0.0)
    hide(model, monkeypatch, *rows)
    together = losses(model, batch())
    for i in range(3):
        hide(model, monkeypatch, rows[i])
        torch.testing.assert_close(losses(model, batch().rows(i, i + 1)), together[i : i + 1])


def test_the_loss_is_a_mean_over_hidden_frames_times_the_frames(model, monkeypatch):
    hide(model, monkeypatch, [1] * 4 + [0] * 8, [0] * 12, [1] + [0] * 11)
    speech = batch()
    _, logits, codes = model.guess(speech, block=2, generator=torch.Generator().manual_seed(1))
    nats = -logits.log_softmax(-1).gather(1, codes[:, None])[:, 0]
    found = model(speech, block=2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found.loss[0], nats[:4].mean() * 12)
    assert found.loss[1] == 0  # nothing was asked
    torch.testing.assert_close(found.loss[2], nats[4] * 7)
    assert found.units.tolist() == [12, 9, 7]
    assert found.parts == {}


def test_a_training_set_says_how_many_frames_an_utterance_counts_for(model):
    """As recorded, whatever its speed is; 0 for background."""
    frames = torch.tensor([10, 0, 8])
    found, plain = (
        model(given, block=2, generator=torch.Generator().manual_seed(1))
        for given in (batch()._replace(frames=frames), batch())
    )
    assert found.units is frames
    torch.testing.assert_close(found.loss, plain.loss / plain.units * frames)


def test_validation_counts_wrong_guesses_and_nats(model):
    generator = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    with torch.inference_mode():
        _, logits, codes = model.guess(batch(), block=-1, generator=generator())
        sums = model.measure(batch(), block=-1, generator=generator())
    error, n = sums["error"]
    assert n == len(codes)
    assert error == 100 * sum(int(a.argmax()) != int(b) for a, b in zip(logits, codes, strict=True))
    nats = -logits.log_softmax(-1)[torch.arange(n), codes].sum()
    assert sums["nats"][0] == pytest.approx(float(nats), rel=1e-5)
    score = model.score({"error": 12.5, "nats": 3.0})
    assert (str(score), score.lower_is_better) == ("error 12.5 % of hidden frames", True)


def test_it_learns(model):
    assert remaining_loss(model) < 0.5


def test_blocks_are_drawn_as_in_training(model):
    assert {model.draw_block(random.Random(seed)) for seed in range(50)} == {-1, 2, 4}


@pytest.mark.parametrize(("name", "value"), [("codes", 0), ("dim", 0), ("span", 0), ("share", 0.0), ("share", 1.0)])
def test_what_cannot_be(name, value):
    with pytest.raises(UserError, match=f"pretrain.{name}={value}"):
        best_rq(pretrain=dataclasses.replace(CONFIG, **{name: value}))
