"""Which backend of beam search is chosen, and why; with and without numba."""

from __future__ import annotations

import importlib.util

import pytest

from samba_asr.config import SearchConfig
from samba_asr.decoding import backend
from samba_asr.decoding.backend import beam_search, choose
from samba_asr.decoding.guide import Guides
from samba_asr.decoding.hotwords import HotwordGuide
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.decoding.words import WordGuide
from samba_asr.errors import UserError
from tests.decoding.toys import PHONES, model

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")


def config(name: str = "auto", **more) -> SearchConfig:
    return SearchConfig(method="beam", backend=name, **more)


@pytest.fixture
def no_numba(monkeypatch):
    monkeypatch.setattr(backend, "has_numba", lambda: False)


@needs_numba
def test_with_numba_it_is_the_compiled_search():
    assert choose(config()).name == choose(config("compiled")).name == "compiled"
    assert choose(config("numpy")) == ("numpy", "decode.search.backend=numpy")


def test_without_numba_it_is_the_numpy_search(no_numba):
    name, why = choose(config())
    assert name == "numpy"
    assert "pip install '.[fast]'" in why
    with pytest.raises(UserError, match=r"'numba', which is not installed: pip install '\.\[fast\]'"):
        choose(config("compiled"))


@pytest.mark.parametrize(("given", "why"), [({"lm": "kenlm"}, "KenLM"), ({"neural": True}, "neural language model")])
def test_what_the_compiled_search_cannot_do_is_left_to_numpy(given, why):
    assert choose(config(), **given).name == "numpy"
    assert why in choose(config(), **given).why
    with pytest.raises(UserError, match=f"decode.search.backend=compiled: .*{why}"):
        choose(config("compiled"), **given)


def test_a_backend_that_there_is_not():
    with pytest.raises(UserError, match=r"decode\.search\.backend=cuda: must be 'auto', 'compiled' or 'numpy'"):
        config("cuda")
    with pytest.raises(UserError, match=r"decode\.search\.threads=-1: give 0"):
        config(threads=-1)


@needs_numba
def test_both_are_made_from_the_same_settings(tmp_path):
    words = WordGuide(PHONES, model(tmp_path), weight=0.5, bonus=0.0)
    guide = Guides([words, HotwordGuide()])
    for beam, nbest in ((8, 1), (64, 1), (128, 5)):
        plain = beam_search(config("numpy", beam=beam, nbest=nbest, prune=9.0), guide)
        fast = beam_search(config(beam=beam, nbest=nbest, prune=9.0, threads=2), guide)
        assert isinstance(plain, PrefixBeam)
        assert type(fast).__name__ == "CompiledBeam"
        for name in ("beam", "candidates", "blank_skip", "prune", "recombine"):
            assert getattr(plain, name) == getattr(fast, name)
        assert fast.threads == 2
    other = words.weighted(weight=0.8, bonus=1.0)
    assert beam_search(config(), other).tables.weight == 0.8
    assert other.tables is words.tables  # made once for all weights
