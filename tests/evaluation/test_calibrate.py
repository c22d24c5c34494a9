"""Calibration in Python; `tests/commands/test_calibrate.py` has what the command prints and writes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from samba_asr.data.manifest import read_manifest
from samba_asr.decoding.confidence import raw
from samba_asr.errors import UserError
from samba_asr.evaluation.calibrate import CheckedWords, collect, cross_validated, fit, measure
from samba_asr.metrics.wer import score
from samba_asr.models.folder import load_model
from samba_asr.recognizer import Recognizer
from tests.support.model_folder import make_model
from tests.training.toy import make_corpus


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("calibrate")
    make_corpus(folder)
    make_model(folder / "model")
    recognizer = Recognizer(load_model(folder / "model"), sure=raw)
    utterances = read_manifest(folder / "corpus.jsonl")
    return recognizer, utterances, collect(recognizer, utterances)


def test_a_word_is_right_where_the_report_says_so(words):
    recognizer, utterances, found = words
    texts = {u.id: recognizer.transcribe(u.audio).text for u in utterances}
    counts = score({u.id: u.text for u in utterances}, texts).counts
    assert sum(found.right) == counts.words - counts.substitutions - counts.deletions
    assert len(found.right) == sum(len(text.split()) for text in texts.values())
    assert found.confidence == tuple(round(raw(e), 4) for e in found.evidence)
    assert list(found.group) == sorted(found.group)


def test_confidences_of_words_that_were_left_out_are_better_than_before(words):
    _, _, found = words
    _, after = fit(found)
    assert after == cross_validated(found)
    mixed = dataclasses.replace(found, right=tuple(n % 3 > 0 for n in range(len(found.right))))
    assert cross_validated(mixed) != [fit(mixed)[0](e) for e in mixed.evidence]
    assert measure(after, found.right).error < measure(found.confidence, found.right).error


def test_measures():
    found = measure([0.9, 0.86, 0.1], [True, False, False])
    assert (found.mean, found.near, found.near_right) == (pytest.approx(0.62), 2, 0.5)
    assert math.isnan(measure([0.5], [True]).near_right)
    assert CheckedWords((), (), (), ()).share == 0


def test_nothing_recognized(words):
    recognizer, _, _ = words
    with pytest.raises(UserError, match="no word was recognized"):
        collect(recognizer, [])
