"""`samba-asr calibrate`, with a model that was never trained: its words are mostly wrong, and it learns to say so."""

from __future__ import annotations

import argparse

import pytest
import torch

from samba_asr.commands import calibrate
from samba_asr.data.manifest import Utterance, write_manifest
from samba_asr.decoding.confidence import PLAIN, WITH_LATTICE, Calibration
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from tests.support.lm import equally_likely, short_words
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
    assert capsys.readouterr().out.splitlines()[1].startswith("now: NCE ")
    assert (place / "model" / "confidence.json").read_text() == written


def test_a_graph_network_judges_the_words_of_lattices(place, capsys, caplog):
    (place / "lm.arpa").write_text(equally_likely(words := short_words("ab", 3)))
    search = ["decode.search.method=beam", f"decode.lm={place / 'lm.arpa'}", "decode.lm.word_bonus=4"]
    assert call(place, "--graph", "--set", *search) == 0
    assert "graph network: NCE " in capsys.readouterr().out
    assert (place / "model" / "lattice.safetensors").stat().st_size < 100_000
    calibration = Calibration.read(place / "model")
    assert [one.names for one in calibration.models] == [WITH_LATTICE, PLAIN]

    def recognized(**more):
        recognizer = Recognizer.load(place / "model", device="cpu", settings=search, **more)
        return [recognizer.transcribe(audio) for audio in sorted(place.glob("**/*.wav"))]

    graph, plain = recognized(), recognized(sure=calibration)
    assert [result.text for result in graph] == [result.text for result in plain]
    confidences = lambda results: [word.confidence for result in results for word in result.words]  # noqa: E731
    assert confidences(graph) != confidences(plain)
    segments = [segment for result in graph for segment in result.segments]
    for segment in segments:
        assert {word.text for word in segment.words} <= set(segment.lattice.words)
        assert segment.lattice.times[-1] == pytest.approx(segment.until)
    others = [other for segment in segments for word in segment.words for other in word.alternatives]
    assert all(0 <= other.confidence <= 1 and other.text in words for other in others)

    (place / "model" / "lattice.safetensors").rename(place / "lattice.safetensors")
    make_model(place / "model", seed=6)  # other weights
    calibration.write(place / "model")
    (place / "lattice.safetensors").rename(place / "model" / "lattice.safetensors")
    found = [word for result in recognized() for word in result.words]
    assert "was trained for another model" in caplog.text
    assert [w.confidence for w in found] == [round(calibration(w.evidence), 4) for w in found]


def test_without_lattices_there_is_no_graph(place):
    with pytest.raises(UserError, match="no utterance has a word lattice"):
        call(place, "--graph")


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
