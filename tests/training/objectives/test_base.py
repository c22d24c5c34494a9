"""The interface of objectives: names, units, auxiliary losses of layers; the hooks around a step."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from samba_asr.config import AugmentConfig, Config, LmConfig, LossConfig
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.models.lm import MambaLm
from samba_asr.nn.auxiliary import AuxiliaryLoss
from samba_asr.training.objectives import Objective, Outcome, objectives
from samba_asr.training.objectives.pretraining import new_encoder
from samba_asr.training.step import SeededBatch, Stepper
from tests.models.tiny import batch, tiny
from tests.support.work import CPU, make_work
from tests.training.toy import Toy, ToyObjective, toy_config

CONFIG = Config(model=tiny(decoder=1, layers=2), loss=LossConfig(decoder=0.3, cr_ctc=0.2))


def nets() -> dict[str, nn.Module]:
    """A net for every objective."""
    torch.manual_seed(0)
    return {
        "speech": AsrModel(CONFIG.model),
        "best_rq": new_encoder(CONFIG.model),
        "masked": new_encoder(CONFIG.model),
        "causal": new_encoder(CONFIG.model),
        "diffusion": new_encoder(CONFIG.model),
        "language_model": MambaLm(LmConfig(layers=1, d_model=8, d_state=4, headdim=4), 5),
    }


def test_every_objective_is_known_by_its_name():
    assert set(objectives) == nets().keys()
    with pytest.raises(UserError, match=r"unknown objective 'best_qr' \(did you mean 'best_rq'\?\)"):
        objectives["best_qr"]


@pytest.mark.parametrize("name", nets())
def test_an_objective_keeps_the_contract(name):
    """One loss and one number of units an utterance, parts as declared, and a net whose weights have their own names."""
    net = nets()[name]
    objective = objectives.build(name, net, CONFIG)
    given = batch()
    for augment in (False, True):
        outcome = objective(given, block=2, augment=augment, generator=torch.Generator().manual_seed(0))
        assert outcome.loss.shape == outcome.units.shape == (3,)
        assert (outcome.units > 0).all()
        assert set(outcome.parts) <= set(objective.part_names)
        assert all(part.shape == (3,) for part in outcome.parts.values())
    outcome.loss.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in net.parameters())
    saved = {name.removeprefix("net.") for name in objective.state_dict() if name.startswith("net.")}
    assert saved == net.state_dict().keys()


def test_the_language_models_loss_is_of_each_unit_and_the_end():
    net = nets()["language_model"].eval()
    given = batch()
    outcome = objectives.build("language_model", net, CONFIG)(given)
    for row, n in enumerate(given.token_lengths.tolist()):
        text = given.tokens[row, :n].tolist()
        state, nats = net.init_state(1), 0.0
        for before, after in zip([0, *text], [*text, 0], strict=True):
            logits, state = net.step(torch.tensor([[before]]), torch.tensor([1]), state)
            nats -= logits.detach()[0, 0].log_softmax(-1)[after].item()
        assert outcome.loss[row].item() == pytest.approx(nats, rel=1e-5)
    assert torch.equal(outcome.units, given.token_lengths)


# --- auxiliary losses


class Uneven(nn.Module):
    """A layer whose auxiliary loss is the sum of the squares of what goes through it."""

    def __init__(self, name="uneven", weight=0.25):
        super().__init__()
        self.loss = AuxiliaryLoss(name, weight)

    def forward(self, x):
        if self.loss.wanted:
            self.loss.add(x.square().flatten(1).sum(1))
        return x


def uneven_speech(*weights: float) -> tuple[AsrModel, list[nn.Module]]:
    """A net with such a layer in each layer of its encoder, and these."""
    model, added = nets()["speech"].eval(), []
    for layer, weight in zip(model.acoustic.encoder.layers, weights, strict=True):
        added.append(Uneven(weight=weight))
        layer.feed_forward_in.up = nn.Sequential(layer.feed_forward_in.up, added[-1])
    return model, added


def inputs_of(layers) -> list[torch.Tensor]:
    """Return a list of the layers' inputs, filled by the next call."""
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda _, inputs, y: seen.append(y.detach()))
    return seen


def test_auxiliary_losses_are_added_with_their_weights_and_named():
    plain = objectives.build("speech", nets()["speech"].eval(), CONFIG)
    model, added = uneven_speech(0.25, 0.5)
    objective = objectives.build("speech", model, CONFIG)
    assert objective.part_names == ("ctc", "decoder", "cr", "uneven")
    seen = inputs_of(added)
    outcome, without = objective(batch(), block=2), plain(batch(), block=2)
    first, second = (x.square().flatten(1).sum(1) for x in seen)
    torch.testing.assert_close(outcome.parts["uneven"].detach(), first + second)
    torch.testing.assert_close(outcome.loss.detach(), without.loss.detach() + 0.25 * first + 0.5 * second)
    assert torch.equal(outcome.parts["ctc"], without.parts["ctc"])


def test_of_two_views_the_auxiliary_loss_is_the_mean():
    model, added = uneven_speech(1.0, 0.0)
    masks = AugmentConfig(time_masks=2, time_width=8, time_ratio=0.5, freq_masks=1, freq_width=3)
    objective = objectives.build("speech", model, dataclasses.replace(CONFIG, augment=masks))
    seen = inputs_of(added[:1])
    outcome = objective(batch(), augment=True, generator=torch.Generator().manual_seed(0))
    (both,) = seen
    assert len(both) == 6
    one, other = both.square().flatten(1).sum(1).split(3)
    assert ((one - other).abs() > 0.02 * one).any()
    parts, one_layer = outcome.parts["uneven"].detach(), (one + other) / 2
    assert (parts > one_layer).all()  # both layers, whatever their weights are
    without = outcome.loss - outcome.parts["ctc"] - 0.3 * outcome.parts["decoder"] - 0.2 * outcome.parts["cr"]
    torch.testing.assert_close(without.detach(), one_layer, rtol=1e-3, atol=1e-3)


def test_an_auxiliary_loss_trains_its_layer_and_reaches_the_log():
    config = toy_config("optim.clip=0")
    net = Toy(config).eval()
    net.inside = nn.Sequential(net.inside, Uneven(weight=20.0))
    stepper = Stepper(ToyObjective(net), config, CPU)
    result = stepper.step([make_work()], number=1, lr=0.0).result()
    assert result.losses["uneven"] > 0
    assert result.losses["loss"] == pytest.approx(result.losses["ctc"] + 20 * result.losses["uneven"])
    size = [stepper.step([make_work()], number=i, lr=0.02).result().losses["uneven"] for i in range(2, 40)]
    assert size[-1] < 0.5 * size[0]


def test_a_name_that_the_objective_has_is_refused():
    net = nn.Sequential(Uneven("ctc"))
    with pytest.raises(ValueError, match="auxiliary loss 'ctc': ToyObjective has a part of that name"):
        Stepper(ToyObjective(net), toy_config(), CPU)


def test_a_part_that_was_not_declared_is_an_error():
    class Wrong(Objective):
        parts = ("a",)

        def compute(self, batch, *, block, augment, generator):
            x = torch.zeros(3)
            return Outcome(x, {"a": x, "b": x}, x)

    with pytest.raises(ValueError, match=r"Wrong\.parts must name b"):
        Wrong(nn.Linear(1, 1))(batch())


# --- hooks around a step


class Codebook(nn.Module):
    """A moving average of what it sees, as a codebook is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("code", torch.zeros(16))
        self.register_buffer("seen", torch.zeros(16))
        self.log = []

    def forward(self, x):
        if self.training:
            self.seen += x.detach().flatten(0, -2).sum(0)
            self.log.append("forward")
        return x

    def before_step(self):
        self.seen.zero_()
        self.log.append("before")

    def after_step(self):
        self.code.lerp_(self.seen, 0.1)
        self.log.append("after")


def with_codebook() -> tuple[Stepper, Codebook]:
    config = toy_config()
    net = Toy(config)
    net.inside = nn.Sequential(net.inside, Codebook())
    return Stepper(ToyObjective(net), config, CPU), net.inside[1]


def test_hooks_are_called_around_the_step_and_see_its_batches_alone():
    stepper, codebook = with_codebook()
    stepper.step([make_work(seed=1), make_work(seed=2)], number=1, lr=0.01)
    assert codebook.log == ["before", "forward", "forward", "after"]
    torch.testing.assert_close(codebook.code, 0.1 * codebook.seen)
    first, code = codebook.seen.clone(), codebook.code.clone()
    stepper.step([make_work(seed=3)], number=2, lr=0.01)
    assert not torch.equal(codebook.seen, first)
    torch.testing.assert_close(codebook.code, code.lerp(codebook.seen, 0.1))


def test_after_step_comes_after_the_weights_have_moved():
    stepper, codebook = with_codebook()
    head, found = stepper.objective.net.head, []
    before = head.weight.detach().clone()
    codebook.after_step = lambda: found.append(head.weight.detach().clone())
    stepper.step([make_work()], number=1, lr=0.01)
    assert not torch.equal(found[0], before)
    assert torch.equal(found[0], head.weight)


def test_a_step_that_is_not_taken_has_no_after():
    stepper, codebook = with_codebook()
    stepper.objective.net.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    stepper.step([make_work()], number=1, lr=0.01)
    assert codebook.log == ["before", "forward"]


def test_a_step_that_begins_anew_forgets_what_was_seen():
    stepper, codebook = with_codebook()
    stepper.objective.eval()  # without dropout the halves see what the whole would have
    codebook.train()
    work = make_work(4)

    def too_big(batch):
        if len(batch.ids) > 2:
            codebook(torch.ones(1, 1, 16))  # a part of the forward pass, before memory ran out
            raise torch.OutOfMemoryError("simulated")

    stepper.objective.before = too_big
    stepper.step([work], number=1, lr=0.0)
    assert codebook.log == ["before", "forward", "before", "forward", "forward", "after"]
    net, given = stepper.objective.net, work.batch
    want = sum(net.inside[0](half.unflatten(1, (-1, 640))).flatten(0, 1).sum(0) for half in halves(given))
    torch.testing.assert_close(codebook.seen, want.detach())


def halves(given):
    for rows in (given.rows(0, 2), given.rows(2, 4)):
        yield rows.audio[:, : rows.audio.shape[1] // 640 * 640]


def test_easy_work_is_not_augmented():
    seen = []
    stepper, _ = with_codebook()
    compute = stepper.objective.compute
    stepper.objective.compute = lambda batch, **how: seen.append(how["augment"]) or compute(batch, **how)
    stepper.step([make_work(), SeededBatch(make_work().batch, 1, easy=True)], number=1, lr=0.01)
    assert seen == [True, False]
