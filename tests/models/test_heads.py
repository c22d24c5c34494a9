"""Heads by name: a new one is trained, saved, loaded and searched without a line elsewhere."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from samba_asr.config import load
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.models.folder import load_model
from samba_asr.models.heads import CtcHead, heads
from samba_asr.recognizer import Recognizer
from samba_asr.streaming import Step
from samba_asr.training.objectives import objectives
from tests.contract import verify_streaming
from tests.support.model_folder import SMALL, make_model


class TwoLayers(CtcHead):
    """A head with a hidden layer."""

    def __init__(self, d_model, vocab_size):
        super().__init__(d_model, vocab_size)
        self.hidden = nn.Linear(d_model, d_model)

    def step(self, x, lengths, state):
        y, lengths, state = super().step(self.hidden(x).relu(), lengths, state)
        return Step(y, lengths, state)


@pytest.fixture
def deep(monkeypatch):
    monkeypatch.setitem(heads._entries, "deep", TwoLayers)


@pytest.mark.parametrize("name", list(heads))
def test_a_head_obeys_the_law_and_gives_probabilities(name):
    head = heads.build(name, 6, 5)
    verify_streaming(head, torch.randn(4, 7, 6))
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    y, _ = head.double()(x, torch.tensor([4, 4]))
    torch.testing.assert_close(y.exp().sum(-1), torch.ones(2, 4, dtype=torch.float64))


def test_a_new_head_works_by_its_name(deep, tmp_path):
    folder = make_model(tmp_path / "model", "model.head=deep")
    loaded = load_model(folder)
    assert isinstance(loaded.model.ctc, TwoLayers)
    recognizer = Recognizer.load(folder, device="cpu")
    samples = torch.randn(16000, generator=torch.Generator().manual_seed(0)).numpy() * 0.1
    assert recognizer.recognize(samples).text
    objective = objectives.build("speech", loaded.model, loaded.config)
    assert objective.net.ctc.hidden.weight.requires_grad


def test_the_head_of_a_folder_that_names_none_is_ctcs(tmp_path):
    folder = make_model(tmp_path / "model")
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("  head: ctc\n", ""))
    assert type(load_model(folder).model.ctc) is CtcHead


def test_an_unknown_head_is_a_user_error():
    config = load([], SMALL).model
    with pytest.raises(UserError, match=r"unknown head 'ctx' \(did you mean 'ctc'\?\); there are: ctc"):
        AsrModel(dataclasses.replace(config, vocab_size=5, head="ctx"))
