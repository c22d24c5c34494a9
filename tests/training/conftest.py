from __future__ import annotations

import pytest
import torch

from tests.training.toy import Toy, ToyTask, make_corpus, toy_config, train_toy


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def run(corpus):
    """run(folder, *overrides, model=None, valid=...) -> (result, model), in this process."""
    torch.set_num_threads(1)

    def run(folder, *overrides, model=None, data=corpus, valid=corpus[:5], task=ToyTask):
        config = toy_config(*overrides)
        model = model or Toy(config)
        return train_toy(config, folder, data, valid, model, task), model

    return run
