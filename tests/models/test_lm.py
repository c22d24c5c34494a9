"""The Mamba language model with experts and a memory: steps and the whole agree; it begins as the plain one; its settings."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch

from samba_asr.config import Config, LmConfig, load
from samba_asr.errors import UserError
from samba_asr.models.lm import MambaLm
from samba_asr.text.units import BOUNDARY
from samba_asr.training.objectives import objectives
from tests.models.tiny import batch

TINY = LmConfig(layers=2, d_model=8, d_state=4, headdim=8, ffn_expand=2, dropout=0.0)


def model(**values) -> MambaLm:
    torch.manual_seed(0)
    found = MambaLm(dataclasses.replace(TINY, **values), 11).double().eval()
    if found.memory:
        torch.nn.init.normal_(found.memory.gate)
    return found


@pytest.mark.parametrize("values", [{}, {"experts": 3}, {"memory": 6}, {"experts": 3, "memory": 6}])
def test_steps_add_up_to_the_loss_of_the_whole(values):
    lm, tokens = model(**values), torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]])
    lengths = torch.tensor([5, 3])
    whole = lm.loss(tokens, lengths)
    for row, n in enumerate(lengths):
        state, total = lm.init_state(1, dtype=torch.float64), 0.0
        text = [BOUNDARY, *tokens[row, :n].tolist(), BOUNDARY]
        for token, after in pairwise(text):
            logits, state = lm.step(torch.tensor([[token]]), torch.tensor([1]), state)
            total -= logits[0, 0].log_softmax(-1)[after].item()
        assert total == pytest.approx(whole[row].item())


def test_a_row_does_not_depend_on_the_others():
    lm, rng = model(experts=3, memory=6), torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 11, (12, 5), generator=rng)
    lengths = torch.full((12,), 5)
    torch.testing.assert_close(lm.loss(tokens, lengths)[:2], lm.loss(tokens[:2], lengths[:2]))


def test_with_a_gate_of_zero_the_memory_changes_nothing():
    plain, lm = model(), model(memory=6)
    assert not plain.load_state_dict(lm.state_dict(), strict=False).missing_keys
    torch.nn.init.zeros_(lm.memory.gate)
    tokens, lengths = torch.tensor([[3, 1, 4]]), torch.tensor([3])
    assert torch.equal(plain.loss(tokens, lengths), lm.loss(tokens, lengths))


def test_a_folder_from_before_has_neither():
    config = load(overrides=[]).lm
    assert (config.experts, config.memory) == (0, 0)


@pytest.mark.parametrize("setting", ["lm.experts=-1", "lm.experts=1000", "lm.memory=5000"])
def test_sizes_that_cannot_be_are_named(setting):
    with pytest.raises(UserError, match=setting.replace(".", r"\.") + ": from 0"):
        load(overrides=[setting])


def test_the_routers_losses_are_parts_of_the_objective():
    lm = MambaLm(dataclasses.replace(TINY, experts=3, balance=0.5), 5)
    objective = objectives.build("language_model", lm, Config())
    outcome = objective(batch())
    assert objective.part_names == ("balance", "router_z")
    alone = lm.loss(batch().tokens, batch().token_lengths)
    added = 0.5 * outcome.parts["balance"] + 1e-3 * outcome.parts["router_z"]
    torch.testing.assert_close(outcome.loss, alone + added)
    outcome.loss.sum().backward()
    assert lm.layers[0].feed_forward.router.weight.grad.abs().sum() > 0
