from __future__ import annotations

import pytest
import torch

from tests.training.toy import TOKENIZER, Toy, make_corpus, toy_config


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def run(corpus):
    """run(folder, *overrides, model=None, valid=...) -> (result, model), in this process."""
    from samba_asr.training.trainer import train

    torch.set_num_threads(1)

    def run(folder, *overrides, model=None, data=corpus, valid=corpus[:5]):
        config = toy_config(*overrides)
        model = model or Toy(config)
        return train(config, folder, tokenizer=TOKENIZER, train=data, valid=valid, model=model), model

    return run
