"""Diffusion: the schedule, what is predicted from what, and that nothing of it is left in the encoder."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from samba_asr.config import Config
from samba_asr.training.objectives.diffusion import MEASURED, STEPS, Diffusion, schedule
from samba_asr.training.objectives.pretraining import new_encoder
from tests.contract import awake
from tests.models.tiny import FRAME, batch, noise, tiny
from tests.support.pretraining import losses, with_and_without_nan_in_the_padding


def make(**changes):
    torch.manual_seed(0)
    config = tiny(layers=2, **changes)
    return awake(Diffusion(new_encoder(config), Config(model=config))).eval()


def draws(seed=1):
    return torch.Generator().manual_seed(seed)


def test_the_schedule_is_the_cosine():
    known = {0: 0.99825249, 1: 0.99456998, 10: 0.87912249, 24: 0.49384359, 40: 0.07664981, 48: 0.00097119}
    share = schedule()
    assert share.shape == (STEPS,)
    for k, value in known.items():
        assert share[k].item() == pytest.approx(value, abs=1e-8)
    assert share[49].item() == pytest.approx(9.7e-7, rel=0.01)


def test_signal_and_noise_are_mixed_by_the_schedule():
    """With v = sqrt(a) e - sqrt(1 - a) x0: x0 = sqrt(a) x_k - sqrt(1 - a) v, and e = sqrt(1 - a) x_k + sqrt(a) v."""
    model = make().double()
    x0, e = noise(3, 10, 4).double(), noise(3, 10, 4, seed=1).double()
    steps, lengths = torch.tensor([0, 24, 49]), torch.tensor([10, 10, 6])
    x = model.noisy(x0, lengths, steps, e)
    assert not x[2, 6:].any()
    x, x0, e = (v[:, :6] for v in (x, x0, e))
    a = schedule()[steps][:, None, None]
    v = a.sqrt() * e - (1 - a).sqrt() * x0
    torch.testing.assert_close(a.sqrt() * x - (1 - a).sqrt() * v, x0, rtol=0, atol=1e-14)
    torch.testing.assert_close((1 - a).sqrt() * x + a.sqrt() * v, e, rtol=0, atol=1e-14)


def test_the_vector_of_step_0_folds_away():
    model = make().double()
    features, lengths = noise(2, 24, 4).double(), torch.tensor([24, 17])
    steps = torch.zeros(2, dtype=torch.long)
    assert model.embedding(steps).abs().max() > 0.01
    plain = new_encoder(model.config).double().eval()
    plain.load_state_dict(model.net_weights(model.state_dict()))
    frames, n = plain.encoder(*plain.subsampling(features, lengths), 2)
    want, m = model.denoised(features, lengths, steps, 2)
    assert n.tolist() == m.tolist() == [6, 4]
    for i, t in enumerate(n):
        torch.testing.assert_close(model.head(frames)[i, :t], want[i, :t], rtol=0, atol=1e-12)
    assert (model.net.subsampling.layers[-1].norm.bias == 0).all()  # the run itself goes on unfolded


def test_every_utterance_has_a_step_of_its_own(monkeypatch):
    model, seen = make(), []
    monkeypatch.setattr(model, "noisy", lambda x, lengths, steps, e: seen.append(steps) or x)
    one = batch().rows(0, 1)
    both = one._replace(audio=one.audio.repeat(20, 1), lengths=one.lengths.repeat(20))
    model(both, generator=draws())
    assert len(set(seen[0].tolist())) > 10
    assert 0 <= seen[0].min() <= seen[0].max() < STEPS


def test_the_loss_is_a_mean_over_valid_features_times_the_frames(monkeypatch):
    model, speech = make(), batch()
    for p in model.head.parameters():
        torch.nn.init.zeros_(p)  # predicts 0
    features, _ = model.features(speech, False, None)
    found = model(speech, generator=draws())
    for i, n in enumerate((12, 9, 7)):
        assert found.loss[i].item() == pytest.approx(features[i, : 4 * n].square().mean().item() * n, rel=1e-5)
    assert found.units.tolist() == [12, 9, 7]


def test_in_blocks_of_one_nothing_later_is_used():
    model = make()
    x, lengths = noise(1, 48, 4), torch.tensor([48])
    changed = x.clone()
    changed[:, 24:] += 1
    one, other = (model.denoised(v, lengths, torch.tensor([7]), 1)[0] for v in (x, changed))
    torch.testing.assert_close(one[:, :6], other[:, :6])
    assert (one[:, 6] - other[:, 6]).abs().max() > 1e-5


def test_nothing_behind_the_end_reaches_anything():
    plain, poisoned = with_and_without_nan_in_the_padding(make())
    assert len(plain) > 20
    for a, b in zip(plain, poisoned, strict=True):
        assert torch.equal(a, b)


def test_validation_measures_the_same_steps_every_time():
    model = make()
    with torch.inference_mode():
        sums, again = (model.measure(batch(), block=-1, generator=draws()) for _ in range(2))
    assert sums == again
    assert set(sums) == {"squared", *(f"squared_{k}" for k in MEASURED)}
    assert sums["squared"][0] == pytest.approx(sum(sums[f"squared_{k}"][0] for k in MEASURED))
    assert sums["squared"][1] == 4 * (12 + 9 + 7)
    means = {name: value / count for name, (value, count) in sums.items()}
    assert f"(step 0: {means['squared_0']:.4f}, step 10: " in model.describe(means)
    assert model.score(means).lower_is_better


def test_with_fusion_all_layers_are_trained():
    model = make(fusion=True)
    losses(model, batch()).sum().backward()
    assert model.net.encoder.fusion.gain.grad.abs().amin() > 0


def test_what_it_learned_can_be_sampled():
    """DDIM from noise in 10 steps (arXiv 2010.02502, eq. 12) finds the utterance that a model was trained on.

    It fails if the schedule, the target or the step's vector disagree with each other.
    """
    torch.manual_seed(0)
    config = dataclasses.replace(tiny("mamba2", layers=1, subsampling_channels=8, max_block=8), d_model=16)
    model = Diffusion(new_encoder(config), Config(model=config))
    speech = batch().rows(0, 1)._replace(audio=noise(1, 8 * FRAME), lengths=torch.tensor([8 * FRAME]))
    features, lengths = model.features(speech, False, None)
    model.net.features.set_statistics(features[0].mean(0), features[0].std(0))
    copies = speech._replace(audio=speech.audio.repeat(16, 1), lengths=speech.lengths.repeat(16))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for i in range(100):
        optimizer.zero_grad()
        model(copies, generator=draws(i)).loss.sum().backward()
        optimizer.step()
    model.eval()
    x0, _ = model.features(speech, False, None)
    x, steps = noise(*x0.shape, seed=9), [49, 44, 39, 34, 29, 24, 19, 14, 9, 4]
    share = schedule().float()
    with torch.no_grad():
        for k, after in zip(steps, [*steps[1:], None], strict=True):
            guess = model.denoised(x, lengths, torch.tensor([k]), -1)[0].reshape(x.shape)
            e = (x - share[k].sqrt() * guess) / (1 - share[k]).sqrt()
            x = guess if after is None else share[after].sqrt() * guess + (1 - share[after]).sqrt() * e
    assert torch.corrcoef(torch.stack([x.flatten(), x0.flatten()]))[0, 1] > 0.9
