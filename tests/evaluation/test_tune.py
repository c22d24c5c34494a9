"""Weights of a language model in Python; `tests/commands/test_lm.py` has what the command prints and saves."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import samba_asr
from samba_asr.data.manifest import read_manifest
from samba_asr.errors import UserError
from samba_asr.evaluation.tune import climb, tune
from samba_asr.models.folder import load_model
from samba_asr.recognizer import Recognizer
from tests.decode_settings import decoding
from tests.support.lm import UNIGRAMS
from tests.support.model_folder import make_model
from tests.training.toy import make_corpus


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tune")
    make_corpus(folder)
    make_model(folder / "model")
    (folder / "lm.arpa").write_text(UNIGRAMS)
    return folder


def test_the_best_search_gives_the_rate_that_was_found(place):
    loaded, utterances = load_model(place / "model"), read_manifest(place / "corpus.jsonl")
    decode = decoding("search.method=beam", "search.beam=4", f"lm={place / 'lm.arpa'}")
    seen = []
    best = tune(loaded, utterances, decode, weights=(1.0, 0.1, 0.5), bonuses=(0.0, 4.0), on_trial=seen.append)
    assert tuple(seen) == best.trials
    assert best.wer == min(trial.wer for trial in best.trials)
    assert best.settings in [trial.settings for trial in best.trials if trial.wer == best.wer]
    assert best.at_edge  # there are two bonuses
    again = samba_asr.evaluate(Recognizer(loaded, best.decode), utterances)
    assert again.wer == pytest.approx(best.wer)


def test_it_climbs_to_where_no_neighbor_is_better():
    asked = []

    def rate(x, y):
        asked.append((x, y))
        return (x - 1) ** 2 + (y - 8) ** 2

    assert climb(range(10), range(10), rate) == ((1, 8), 0)
    assert len(asked) == len(set(asked)) < 40


def test_there_must_be_something_to_tune_by(place):
    loaded, utterances = load_model(place / "model"), read_manifest(place / "corpus.jsonl")
    with pytest.raises(UserError, match="nothing to tune without a language model"):
        tune(loaded, utterances, decoding("search.method=beam"))
    bare = [dataclasses.replace(u, text="") for u in utterances]
    with pytest.raises(UserError, match="have no texts"):
        tune(loaded, bare, decoding("search.method=beam", f"lm={place / 'lm.arpa'}"))
