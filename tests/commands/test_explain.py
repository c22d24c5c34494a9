"""`samba-asr explain`: a picture, of the model in the box."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import soundfile
import torch

from samba_asr.commands import explain as command
from samba_asr.errors import UserError
from samba_asr.evaluation.explain import MOST_UNITS, draw, explain, units
from samba_asr.models.box import box_folder
from samba_asr.recognizer import Recognizer
from tests.support.model_folder import make_model

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("explain")
    make_model(folder / "model")
    rng = np.random.default_rng(0)
    soundfile.write(folder / "a.wav", 0.1 * rng.standard_normal(32000), 16000)
    soundfile.write(folder / "empty.wav", np.zeros(0), 16000)
    return folder


def call(*args) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["explain", *(str(a) for a in args), "--device", "cpu"])
    return parsed.run(parsed)


def test_a_picture_of_words_and_units(place, capsys):
    out = place / "out" / "a.svg"
    assert call(place / "a.wav", "--model", place / "model", "--out", out, "--start", 0.5, "--seconds", 1) == 0
    text, path = capsys.readouterr().out.splitlines()
    assert path == str(out)
    drawn = out.read_text()
    assert "<svg" in drawn
    assert drawn.count("<!-- ") > 5  # matplotlib's comments: the texts it drew
    assert len(text) > 1


def test_what_is_drawn_is_what_was_recognized(place):
    recognizer = Recognizer.load(place / "model", device="cpu")
    samples = soundfile.read(place / "a.wav", dtype="float32")[0]
    found = explain(recognizer, samples, rate=16000)
    assert found.result == recognizer.transcribe(place / "a.wav")
    assert found.probabilities.shape == (50, recognizer.tokenizer.vocab_size)
    assert found.features.shape == (200, 80)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)


def test_all_panels_have_one_axis_of_time(place):
    make_model(place / "slow", "model.subsampling=8")
    recognizer = Recognizer.load(place / "slow", device="cpu")
    found = explain(recognizer, soundfile.read(place / "a.wav", dtype="float32")[0])
    _, mel, units = draw(found).axes
    spectrogram, probabilities = (panel.images[0].get_extent() for panel in (mel, units))
    assert spectrogram[:2] == pytest.approx((0.0, 2.0))
    assert probabilities[:2] == pytest.approx((0.0, 2.0))


def test_a_mixers_matrix_reads_within_blocks_alone(place):
    """At 320 ms a step reads all of the past and up to 8 frames of its own block; the picture has its axis of time."""
    recognizer = Recognizer.load(place / "model", device="cpu")
    samples = soundfile.read(place / "a.wav", dtype="float32")[0]
    found = explain(recognizer, samples, latency_ms=320, mixer=1)
    assert found.mixer is not None
    assert (found.mixer.layer, found.mixer.block, found.mixer.step) == (1, 8, 0.04)
    block = np.arange(50) // 8
    assert (found.mixer.matrix[block[:, None] < block] == 0).all()
    assert (found.mixer.matrix[block[:, None] >= block] > 0).mean() > 0.9
    again = explain(recognizer, samples, latency_ms=320)
    assert again.result == found.result
    assert again.mixer is None
    _, mel, matrix, _ = draw(found).axes
    assert matrix.images[0].get_extent()[:2] == mel.images[0].get_extent()[:2] == pytest.approx((0.0, 2.0))


@pytest.mark.parametrize("layer", [0, 99])
def test_a_layer_that_is_not_there(place, layer):
    with pytest.raises(UserError, match=f"--mixer {layer}: the model has layers 1 to"):
        call(place / "a.wav", "--model", place / "model", "--out", place / "b.png", "--mixer", layer)


def test_units_come_in_the_order_of_time():
    p = np.full((6, 40), 0.001)
    p[1, 7], p[3, 2], p[5, 9], p[:, 0] = 0.9, 0.5, 0.06, 0.9
    assert units(p) == [7, 2, 9]
    assert units(np.zeros((0, 5))) == []
    assert len(units(np.full((3, 100), 0.5))) == MOST_UNITS


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "a.gif"], "must end in .png, .svg or .pdf"),
        (["--out", "a.png", "--seconds", 61], "at most 60 seconds"),
        (["--out", "a.png", "--start", -1], "start at 0 or later"),
        (["--out", "a.png", "--start", 100], "a.wav"),
    ],
)
def test_what_cannot_be_drawn(place, tmp_path, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        call(place / "a.wav", "--model", place / "model", *more)
    assert not list(tmp_path.iterdir())


def test_silence_has_a_picture(tmp_path, capsys):
    try:
        box_folder("digits")
    except UserError:
        pytest.skip("no model in the box")
    soundfile.write(tmp_path / "s.wav", np.zeros(16000), 16000)
    assert call(tmp_path / "s.wav", "--model", "digits", "--out", tmp_path / "s.png") == 0
    assert capsys.readouterr().out.splitlines()[0] == ""
