"""The interface of objectives: names, units and parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from samba_asr.config import Config, LmConfig, LossConfig
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.models.lm import MambaLm
from samba_asr.training.objectives import Objective, Outcome, objectives
from samba_asr.training.objectives.pretraining import new_encoder
from tests.models.tiny import batch, tiny

CONFIG = Config(model=tiny(decoder=1, layers=2), loss=LossConfig(decoder=0.3, cr_ctc=0.2))


def nets() -> dict[str, nn.Module]:
    """A net for every objective."""
    torch.manual_seed(0)
    return {
        "speech": AsrModel(CONFIG.model),
        "best_rq": new_encoder(CONFIG.model),
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
        assert set(outcome.parts) <= set(objective.parts)
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


def test_a_part_that_was_not_declared_is_an_error():
    class Wrong(Objective):
        parts = ("a",)

        def compute(self, batch, *, block, augment, generator):
            x = torch.zeros(3)
            return Outcome(x, {"a": x, "b": x}, x)

    with pytest.raises(ValueError, match=r"Wrong\.parts must name b"):
        Wrong(nn.Linear(1, 1))(batch())
