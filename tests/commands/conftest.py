"""A place to run commands in."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a corpus and a model of it that was never trained."""
    from tests.support.model_folder import make_model
    from tests.training.toy import make_corpus

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("place")
    make_corpus(folder)
    make_model(folder / "model")
    return folder
