"""Searches by name, and what each says that it takes; a new one needs no line outside its file and the registry."""

from __future__ import annotations

import pytest
import torch

from samba_asr.config import SearchConfig
from samba_asr.decoding.base import ALL
from samba_asr.decoding.build import two_pass
from samba_asr.decoding.hotwords import HotwordGuide, Hotwords
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.decoding.searches import method_for, refusal, searches, settings_for
from samba_asr.errors import UserError
from samba_asr.models.folder import load_model
from samba_asr.recognizer import Recognizer
from tests.decode_settings import decoding
from tests.decoding.toys import CHARS
from tests.support.model_folder import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("searches") / "model")


@pytest.fixture
def third(monkeypatch):
    """A search that finds several hypotheses, and takes nothing that guides it."""

    class Third(PrefixBeam):
        takes = frozenset({"nbest"})

    monkeypatch.setitem(searches._entries, "third", Third)
    return Third


@pytest.mark.parametrize("name", list(searches))
def test_a_search_does_what_it_says(name):
    kind = searches[name]
    assert kind.takes <= ALL
    search = kind.from_config(SearchConfig(method=name), HotwordGuide() if "hotwords" in kind.takes else None)
    x = torch.randn(1, 6, CHARS.vocab_size, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    state = search.finish(search.step(x, torch.tensor([6]), search.init_state(1)))
    assert (len(search.hypotheses(state, 4)[0]) > 1) == ("nbest" in kind.takes)
    phrases = Hotwords(CHARS, {"ab": 1.0})
    if "hotwords" in kind.takes:
        search.init_state(1, phrases)
    else:
        with pytest.raises(ValueError, match="hotwords"):
            search.init_state(1, phrases)


def test_a_search_is_chosen_by_what_it_takes(third):
    assert [method_for("hotwords", own) for own in ("", "greedy", "beam", "third")] == ["beam"] * 4
    assert method_for("nbest", "third") == "third"
    assert settings_for("hotwords", "beam") == []
    assert settings_for("hotwords", "greedy") == settings_for("hotwords", "third") == ["decode.search.method=beam"]
    assert refusal("hotwords need", "hotwords", "greedy").endswith(
        "and greedy search has one: use decode.search.method=beam"
    )


def test_a_new_search_works_by_its_name(folder, third):
    recognizer = Recognizer.load(folder, device="cpu", settings=["decode.search.method=third", "decode.search.nbest=2"])
    assert isinstance(recognizer.segmenter.search.search, third)
    with pytest.raises(UserError, match=r"hotwords need .* use decode\.search\.method=beam"):
        recognizer.hotwords(["ab"])
    with pytest.raises(UserError, match=r"decode\.hotwords\.path=x needs .* use decode\.search\.method=beam"):
        two_pass(load_model(folder), decoding("search.method=third", "hotwords=x"))
    with pytest.raises(UserError, match=r"unknown search method 'thirt' \(did you mean 'third'\?\)"):
        two_pass(load_model(folder), decoding("search.method=thirt"))


def test_a_recognizer_is_loaded_with_a_search_for_what_it_needs(folder):
    needs = {"device": "cpu", "needs": ["hotwords"]}
    assert Recognizer.load(folder, **needs).decode == decoding("search.method=beam")
    with pytest.raises(UserError, match="hotwords need"):  # what is set by hand is not overridden
        Recognizer.load(folder, settings=["decode.search.method=greedy"], **needs).hotwords(["ab"])
