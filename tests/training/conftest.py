from __future__ import annotations

import contextlib

import pytest
import torch

from tests.training.toy import Toy, ToyTask, make_corpus, toy_config, train_toy


@pytest.fixture
def full_disk():
    """full_disk(n): a context in which no file grows beyond n bytes, as if the disk were full."""
    resource = pytest.importorskip("resource")

    @contextlib.contextmanager
    def full_disk(size: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full_disk


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
