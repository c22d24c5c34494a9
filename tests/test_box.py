"""The models in the box: small enough to carry, and they read what they are for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from samba_asr.data.readers import read_corpus
from samba_asr.errors import UserError
from samba_asr.metrics.wer import score
from samba_asr.models.box import box_folder
from samba_asr.recognizer import Recognizer
from tests.shared import needs_shared, shared


@pytest.fixture(scope="module")
def english() -> Recognizer:
    torch.set_num_threads(1)
    try:
        return Recognizer.load("english", device="cpu")
    except UserError as error:
        pytest.skip(str(error))


def test_the_box_is_at_most_44_mb():
    try:
        box = box_folder().parent
    except UserError as error:
        pytest.skip(str(error))
    assert sum(path.stat().st_size for path in box.rglob("*") if path.is_file()) <= 44e6


def test_the_default_is_the_english_one(english):
    assert box_folder() == box_folder("english") == english._loaded.folder


def test_silence_and_noise_are_no_words(english):
    rng = np.random.default_rng(0)
    for level in (0.0, 1e-3):
        stream = english.stream(latency_ms=640)
        stream.accept((level * rng.standard_normal(16000 * 20)).astype(np.float32))
        assert stream.finish().text == ""


@needs_shared("data/LibriSpeech/dev-5h")
def test_it_reads_books_as_well_as_its_card_says(english):
    said = json.loads((box_folder("english") / "results.json").read_text())["dev-5h-null"]["wer"]
    utterances = sorted(read_corpus(shared("data/LibriSpeech/dev-5h")), key=lambda u: u.id)[::10]
    report = score({u.id: u.text for u in utterances}, {u.id: english.transcribe(u.audio).text for u in utterances})
    assert 100 * report.wer == pytest.approx(said, abs=10)
