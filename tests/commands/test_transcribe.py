"""`samba-asr transcribe` with the model in the box, on clips that the repository carries, and on what users throw at it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samba_asr import formats
from samba_asr.audio.read import read
from samba_asr.cli import main
from samba_asr.commands.transcribe import FORMATS
from samba_asr.config import VERSION
from samba_asr.data.manifest import read_manifest
from samba_asr.decoding.confidence import Calibration
from samba_asr.metrics.wer import score
from samba_asr.models.box import box_folder

CORPUS = Path(__file__).parents[2] / "egs" / "digits" / "data" / "manifest.jsonl"
CLIPS = [u for u in read_manifest(CORPUS) if u.split == "test"][::8]


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    """The small model of the box: it loads at once, and knows these clips' words alone."""
    monkeypatch.setattr("samba_asr.models.box.DEFAULT", "digits")


@pytest.fixture
def clips(tmp_path) -> list[tuple[Path, str]]:
    """(file, text) of some unseen voices."""
    files = []
    for clip in CLIPS:
        audio = read(clip.audio, start=clip.start, duration=clip.duration)
        soundfile.write(tmp_path / f"{clip.id}.wav", audio.samples, audio.rate)
        files.append((tmp_path / f"{clip.id}.wav", clip.text))
    return files


def test_the_model_in_the_box_reads_digits_of_voices_it_never_heard(clips, capsys):
    assert main(["transcribe", *(str(f) for f, _ in clips)]) == 0
    lines = capsys.readouterr().out.splitlines()
    report = score({f.stem: text for f, text in clips}, {f.stem: t for (f, _), t in zip(clips, lines, strict=True)})
    assert report.wer < 0.2  # a guard; egs/digits/RESULTS.md has the number on all of them


def test_streaming_ends_with_the_same_text_for_every_chunk(clips, capsys):
    file = str(clips[0][0])
    outputs = set()
    for chunk in ([], ["--stream", "--chunk-ms", "30"], ["--stream", "--chunk-ms", "333"], ["--stream"]):
        assert main(["transcribe", "--latency-ms", "320", *chunk, file]) == 0
        captured = capsys.readouterr()
        outputs.add(captured.out)
        assert bool(captured.err.strip()) == ("--stream" in chunk)
    assert len(outputs) == 1


def test_json_has_words_with_times(clips, capsys):
    file, _ = clips[0]
    assert main(["transcribe", "--format", "json", str(file)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["audio"] == str(file)
    assert [w["word"] for w in result["words"]] == result["text"].split()
    times = [t for w in result["words"] for t in (w["start"], w["end"])]
    assert times == sorted(times)
    assert times[-1] <= soundfile.info(file).duration + 0.04


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("srt", r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n[A-Z ]+\n"),
        ("vtt", r"WEBVTT\n\n00:00:0\d\.\d{3} --> 00:00:0\d\.\d{3}\n[A-Z ]+\n"),
    ],
)
def test_subtitles(clips, capsys, form, pattern):
    assert main(["transcribe", "--format", form, str(clips[0][0])]) == 0
    assert re.match(pattern, capsys.readouterr().out)


def test_formats_of_other_tools(clips, capsys):
    assert FORMATS == formats.FORMATS
    file, words = str(clips[0][0]), clips[0][1].split()
    assert main(["transcribe", "--format", "ctm", file]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[1], line[4]) for line in lines] == [(clips[0][0].stem, "1", word) for word in words]
    assert main(["transcribe", "--format", "textgrid", file]) == 0
    head, tier = capsys.readouterr().out.split('"IntervalTier"')
    assert head.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n')
    _, name, begin, end, count, *rows = tier.splitlines()
    rows = [(float(rows[i]), float(rows[i + 1]), rows[i + 2].strip('"')) for i in range(0, len(rows), 3)]
    assert (name, begin, len(rows)) == ('"words"', "0", int(count))
    assert [text for *_, text in rows if text] == words
    assert [0.0, *(e for _, e, _ in rows)] == [*(b for b, _, _ in rows), float(end)]  # they touch


def test_any_rate_width_and_number_of_channels(clips, tmp_path, capsys):
    audio = read(str(clips[0][0]))
    from samba_asr.audio.resample import resample

    high = resample(audio.samples, audio.rate, 48000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([high, high], 1), 48000, subtype="PCM_24")
    assert main(["transcribe", str(tmp_path / "stereo.wav")]) == 0
    assert capsys.readouterr().out.strip() == clips[0][1]


def test_bad_files_cost_one_line_each_and_the_others_still_get_their_text(clips, tmp_path, capsys):
    good, text = clips[0]
    (tmp_path / "not-audio.wav").write_bytes(b"this is a letter, not a recording" * 9)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "truncated.wav").write_bytes(good.read_bytes()[:9000])
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    bad = [str(tmp_path / f"{n}.wav") for n in ("not-audio", "empty", "truncated", "nan", "missing")]
    assert main(["transcribe", *bad, str(good)]) == 1
    captured = capsys.readouterr()
    assert captured.out.strip() == text
    errors = captured.err.strip().splitlines()
    assert len(errors) == len(bad) + 1
    for file, line in zip(bad, errors, strict=False):
        assert file in line


def test_silence_and_one_sample_are_no_errors_and_have_no_words(tmp_path, capsys):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000 * 5, np.float32), 16000)
    soundfile.write(tmp_path / "one.wav", np.zeros(1, np.float32), 16000)
    assert main(["transcribe", str(tmp_path / "silence.wav"), str(tmp_path / "one.wav")]) == 0
    assert capsys.readouterr().out == "\n\n"


def test_where_nothing_was_recognized_stderr_says_why(clips, tmp_path, capsys):
    folder, good = tmp_path / "model", clips[0][0]
    shutil.copytree(box_folder(), folder)
    Calibration(-9.0, 0.0, 0.0).write(folder)
    soundfile.write(tmp_path / "silence.wav", np.zeros(8000 * 5, np.float32), 8000)
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 8000)
    files = [str(good), str(tmp_path / "silence.wav"), str(tmp_path / "none.wav")]
    assert main(["transcribe", "--model", str(folder), "--set", "decode.endpoint.confidence=0.5", *files]) == 0
    captured = capsys.readouterr()
    unsure, silent, empty = captured.err.strip().splitlines()
    assert captured.out == "\n\n\n"
    assert re.search(
        r"\d words were recognized, but with too little confidence .* --set decode.endpoint.confidence=0 ", unsure
    )
    assert "no speech was recognized in 5.0 s of audio" in silent
    assert "it has no audio" in empty
    assert main(["transcribe", "--set", "decode.endpoint.confidence=0.5", str(good)]) == 0  # not calibrated: no bound
    assert capsys.readouterr().out.strip() == clips[0][1]


def test_a_model_of_another_version_is_refused_in_one_line(clips, tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in box_folder().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(f"version: {VERSION}", "version: 9"))
    assert main(["transcribe", "--model", str(folder), str(clips[0][0])]) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "version 9" in error


@pytest.mark.parametrize(
    "option",
    [
        ["--latency-ms", "50"],
        ["--chunk-ms", "0"],
        ["--model", "nowhere"],
        ["--device", "tpu9"],
        ["--set", "decode.beem=4"],
    ],
)
def test_wrong_options_are_one_line(clips, capsys, option):
    assert main(["transcribe", str(clips[0][0]), *option]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_hotwords_that_nothing_writes_are_named_and_the_others_work(clips, capsys, caplog):
    """A model of phones: one word by a guess, one by its pronunciation, one as people type it, and one that cannot be."""
    phrases = ["Kubernetes", "Grumblezoo = G R AH M B AH L Z UW", "St. John\u2019s", "COVID-19", "ДОМ", "X = QQ"]
    options = [item for phrase in phrases for item in ("--hotword", phrase)]
    file, said = clips[0]
    assert main(["transcribe", "--model", "english", *options, str(file)]) == 0
    text = capsys.readouterr().out.split()
    assert set(text) & set(said.split())
    left = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert [message.split(" is ")[0] for message in left] == ["hotword 'ДОМ'", "hotword 'X = QQ'"]
