"""`samba-asr align` with the model in the box, on a clip that the repository carries."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from samba_asr.cli import main
from samba_asr.data.manifest import read_manifest

CORPUS = Path(__file__).parents[2] / "egs" / "digits" / "data" / "manifest.jsonl"
CLIP = next(u for u in read_manifest(CORPUS) if u.split == "test")


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    """The small model of the box: it loads at once, and knows these clips' words alone."""
    monkeypatch.setattr("samba_asr.models.box.DEFAULT", "digits")


@pytest.fixture
def clip(tmp_path) -> str:
    import soundfile

    from samba_asr.audio.read import read

    audio = read(CLIP.audio, start=CLIP.start, duration=CLIP.duration)
    soundfile.write(tmp_path / "clip.wav", audio.samples, audio.rate)
    return str(tmp_path / "clip.wav")


def test_each_word_has_its_time_and_how_sure_the_model_is(clip, capsys):
    assert main(["align", clip, CLIP.text]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[3] for row in rows] == CLIP.text.split()
    times = [float(t) for row in rows for t in row[:2]]
    assert times == sorted(times)
    assert times[-1] <= CLIP.duration + 0.04


def test_a_word_that_is_not_spoken_is_not_believed(clip, capsys):
    wrong = "ONE" if CLIP.text.split()[0] != "ONE" else "TWO"
    assert main(["align", "--format", "json", clip, " ".join([*CLIP.text.split()[:-1], wrong])]) == 0
    sure = [word["confidence"] for word in json.loads(capsys.readouterr().out)["words"]]
    assert sure[-1] < 0.5 < min(sure[:-1])


def test_the_text_may_come_from_standard_input(clip, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(CLIP.text + "\n"))
    assert main(["align", "--format", "ctm", clip, "-"]) == 0
    assert [line.split()[4] for line in capsys.readouterr().out.splitlines()] == CLIP.text.split()


@pytest.mark.parametrize(
    ("text", "message"), [("", "the text to align is empty"), ("seven", "no way to write 'seven'")]
)
def test_a_wrong_text_is_refused(clip, capsys, text, message):
    assert main(["align", clip, text]) == 1
    assert message in capsys.readouterr().err


def test_audio_that_is_not_there_is_named(capsys):
    assert main(["align", "nowhere.wav", "ONE"]) == 1
    assert "nowhere.wav" in capsys.readouterr().err
