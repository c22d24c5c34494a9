"""`samba-asr align` with the model in the box, on a clip that the repository carries."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from samba_asr.audio.read import read
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
    ("text", "message"), [("- !", "the text to align is empty"), ("ONE ДОМ", "cannot write 'ДОМ'")]
)
def test_a_wrong_text_is_refused(clip, capsys, text, message):
    assert main(["align", clip, text]) == 1
    assert message in capsys.readouterr().err


def test_case_and_marks_do_not_matter(clip, capsys):
    assert main(["align", clip, CLIP.text]) == 0
    want = [line.split() for line in capsys.readouterr().out.splitlines()]
    typed = " — ".join(word.capitalize() + "," for word in CLIP.text.split())
    assert main(["align", clip, typed]) == 0
    found = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:3] for row in found] == [row[:3] for row in want]
    assert [row[3] for row in found] == [f"{word.capitalize()}," for word in CLIP.text.split()]


def test_the_text_may_be_a_file(clip, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\ufeff" + CLIP.text + "\n", encoding="utf-8")
    assert main(["align", "--format", "ctm", clip, "text.txt"]) == 0
    assert [line.split()[4] for line in capsys.readouterr().out.splitlines()] == CLIP.text.split()


def test_a_text_that_lacks_words_gets_a_warning(tmp_path, capsys, caplog):
    import soundfile

    clips = [u for u in read_manifest(CORPUS) if u.split == "test"][:4]
    heard = [read(u.audio, start=u.start, duration=u.duration) for u in clips]
    soundfile.write(tmp_path / "all.wav", np.concatenate([audio.samples for audio in heard]), heard[0].rate)
    assert main(["align", str(tmp_path / "all.wav"), clips[0].text]) == 0
    assert "it seems to lack words" in caplog.text
    caplog.clear()
    assert main(["align", str(tmp_path / "all.wav"), " ".join(u.text for u in clips)]) == 0
    assert "lack words" not in caplog.text


@pytest.mark.parametrize("form", ["text", "ctm", "json"])
def test_a_model_of_phones_tells_the_words_that_were_given(clip, capsys, form):
    """They were spelt as phones: SEHVAHN for SEVEN.  GRUMBLEZOO is in no lexicon, and pronounced by a guess."""
    typed = [*(word.capitalize() for word in CLIP.text.split()), "Grumblezoo!"]
    assert main(["align", "--model", "english", "--format", form, clip, " ".join(typed)]) == 0
    out = capsys.readouterr().out
    if form == "json":
        assert [word["word"] for word in json.loads(out)["words"]] == typed
    else:
        assert [line.split()[3 if form == "text" else 4] for line in out.splitlines()] == typed


def test_audio_that_is_not_there_is_named(capsys):
    assert main(["align", "nowhere.wav", "ONE"]) == 1
    assert "nowhere.wav" in capsys.readouterr().err
