"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# Compiled functions and search tables of tests, kept between runs, and apart from the user's.
os.environ.setdefault("SAMBA_ASR_CACHE", str(Path(__file__).parents[1] / ".pytest_cache" / "samba_asr"))
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined


@pytest.fixture(autouse=True)
def subnormal_numbers() -> None:
    """Each test begins with subnormal numbers: onnxruntime's first session turns them off, and hypothesis needs them."""
    torch.set_flush_denormal(False)


@pytest.fixture
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty, empty_like and new_empty give NaN: code that reads memory before writing it is found out."""

    def poison(make):
        def made(*args, **kwargs):
            fresh = make(*args, **kwargs)
            return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

        return made

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    """Random weights that talk a lot (`tests.support.recognizer`)."""
    from tests.support.recognizer import talkative

    return talkative(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def pausing(recognizer):
    """That recognizer, silent most of the time, and as if its few letters were all of English."""
    from tests.support.recognizer import with_pauses

    return with_pauses(recognizer)
