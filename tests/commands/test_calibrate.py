"""`samba-asr calibrate`, with a model that was never trained: its words are mostly wrong, and it learns to say so."""

from __future__ import annotations

import argparse

import pytest
import torch

from samba_asr.commands import calibrate
from samba_asr.data.manifest import Utterance, write_manifest
from samba_asr.decoding.confidence import Calibration
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from tests.support.model_folder import make_model
from tests.training.toy import make_corpus


@pytest.fixture
def place(tmp_path):
    torch.set_num_threads(1)
    make_corpus(tmp_path)
    make_model(tmp_path / "model")
    return tmp_path


def call(place, *more, data="corpus.jsonl") -> int:
    parser = argparse.ArgumentParser()
    calibrate.add_parser(parser.add_subparsers())
    words = ["calibrate", "--model", place / "model", "--data", place / data, "--device", "cpu", *more]
    args = parser.parse_args([str(w) for w in words])
    return args.run(args)


def test_a_model_that_is_wrong_learns_to_doubt(place, capsys):
    pytest.importorskip("matplotlib")
    assert call(place, "--plot", place / "r.svg") == 0
    count, before, after, plot = capsys.readouterr().out.splitlines()
    assert "words, " in count
    error = lambda line: float(line.split("expected calibration error ")[1].split(",")[0])  # noqa: E731
    assert error(after) < error(before)
    assert plot == str(place / "r.svg")
    assert "<svg" in (place / "r.svg").read_text()
    recognizer = Recognizer.load(place / "model", device="cpu")
    words = recognizer.transcribe(sorted(place.glob("**/*.wav"))[0]).words
    assert [w.confidence for w in words] == [round(Calibration.read(place / "model")(w.evidence), 4) for w in words]
    written = (place / "model" / "confidence.json").read_text()
    assert call(place, "--test") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("now: mean confidence")
    assert (place / "model" / "confidence.json").read_text() == written


def test_a_broken_calibration_can_be_made_anew(place):
    (place / "model" / "confidence.json").write_text("{}")
    with pytest.raises(UserError, match="not a calibration"):
        call(place, "--test")
    assert call(place) == 0
    assert Calibration.read(place / "model")


def test_a_manifest_without_texts(place):
    write_manifest(place / "no.jsonl", [Utterance(id="a", audio="a.wav", text="")])
    with pytest.raises(UserError, match="has no texts to compare with"):
        call(place, data="no.jsonl")
