"""`samba-asr transcribe` with the model in the box, on clips that the repository carries, and on what users throw at it."""

from __future__ import annotations

import io
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
from samba_asr.commands import terminal
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
    lines = [
        line.removeprefix(f"{f}: ") for (f, _), line in zip(clips, capsys.readouterr().out.splitlines(), strict=True)
    ]
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
    assert captured.out == f"{tmp_path / 'truncated.wav'}: \n{good}: {text}\n"  # the cut one has some audio
    errors = captured.err.strip().splitlines()
    assert len(errors) == len(bad) + 1
    for file, line in zip(bad, errors, strict=False):
        assert file in line


def test_files_in_threads_are_written_as_one_after_another(clips, tmp_path, capsys):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"nothing that sounds")
    files = [str(clips[0][0]), str(bad), *(str(file) for file, _ in clips[1:])]
    assert main(["transcribe", *files]) == 1
    one = capsys.readouterr()
    assert main(["transcribe", "--jobs", "3", *files]) == 1
    assert capsys.readouterr() == one
    assert main(["transcribe", "--jobs", "2", "--stream", *files]) == 1
    assert "--jobs 2 does not go with --stream" in capsys.readouterr().err


def test_silence_and_one_sample_are_no_errors_and_have_no_words(tmp_path, capsys):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000 * 5, np.float32), 16000)
    soundfile.write(tmp_path / "one.wav", np.zeros(1, np.float32), 16000)
    assert main(["transcribe", "--no-names", str(tmp_path / "silence.wav"), str(tmp_path / "one.wav")]) == 0
    assert capsys.readouterr().out == "\n\n"


def test_where_nothing_was_recognized_stderr_says_why(clips, tmp_path, capsys):
    folder, good = tmp_path / "model", clips[0][0]
    shutil.copytree(box_folder(), folder)
    Calibration.two(-9.0, 0.0, 0.0).write(folder)
    soundfile.write(tmp_path / "silence.wav", np.zeros(8000 * 5, np.float32), 8000)
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 8000)
    files = [str(good), str(tmp_path / "silence.wav"), str(tmp_path / "none.wav")]
    assert main(["transcribe", "--model", str(folder), "--set", "decode.endpoint.confidence=0.5", *files]) == 0
    captured = capsys.readouterr()
    unsure, silent, empty = captured.err.strip().splitlines()
    assert captured.out == "".join(f"{file}: \n" for file in files)
    assert re.search(
        r"\d words were recognized, but with too little confidence .* --set decode.endpoint.confidence=0 ", unsure
    )
    assert "no speech was recognized in 5.0 s of audio" in silent
    assert "it has no audio" in empty
    assert main(["transcribe", "-q", "-m", str(folder), "--set", "decode.endpoint.confidence=0.5", *files]) == 0
    assert capsys.readouterr().err == ""
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
    assert main(["transcribe", "--text", "spoken", "--model", "english", *options, str(file)]) == 0
    text = capsys.readouterr().out.split()
    assert set(text) & set(said.split())
    left = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert [message.split(" is ")[0] for message in left] == ["hotword 'ДОМ'", "hotword 'X = QQ'"]


# --- files, folders and formats


def test_a_folder_and_a_pattern_stand_for_the_files_in_them(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talks" / "old").mkdir(parents=True)
    (tmp_path / "talks" / "notes.md").write_text("no audio")
    shutil.copyfile(clips[0][0], "talks/b.wav")
    shutil.copyfile(clips[0][0], "talks/old/A.WAV")
    assert main(["transcribe", "talks"]) == 0
    want = [f"talks/b.wav: {clips[0][1]}", f"talks/old/A.WAV: {clips[0][1]}"]
    assert capsys.readouterr().out.splitlines() == want
    assert main(["transcribe", "talks/*.w?v"]) == 0  # quoted, or on Windows
    assert capsys.readouterr().out.splitlines() == [clips[0][1]]
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "no audio or video in this folder"), ("*.mp9", "no file fits this pattern")):
        assert main(["transcribe", name]) == 1
        assert message in capsys.readouterr().err


def test_each_file_gets_a_file_of_each_format(clips, tmp_path, capsys):
    (one, said), (two, _) = clips[:2]
    same = tmp_path / f"{two.stem}.ogg"
    soundfile.write(same, read(two).samples, 16000 if read(two).rate == 16000 else read(two).rate)
    out = tmp_path / "a" / "b"
    assert main(["transcribe", "-f", "srt,TXT,json,textgrid", "-o", str(out), str(one), str(two), str(same)]) == 0
    assert capsys.readouterr().out == ""
    bases = (one.stem, two.name, same.name)
    assert {p.name for p in out.iterdir()} == {f"{b}.{s}" for b in bases for s in ("srt", "txt", "json", "TextGrid")}
    assert (out / f"{one.stem}.txt").read_text() == said + "\n"
    assert (out / f"{one.stem}.srt").read_text().startswith("1\n00:00:0")
    assert json.loads((out / f"{one.stem}.json").read_text())["audio"] == str(one)


@pytest.mark.parametrize("form", ["srt", "vtt", "textgrid", "text,json"])
def test_what_cannot_stand_on_standard_output_needs_a_folder(clips, capsys, form):
    assert main(["transcribe", "--format", form, str(clips[0][0]), str(clips[1][0])]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--out DIR" in captured.err
    with pytest.raises(SystemExit):
        main(["transcribe", "-f", "doc", str(clips[0][0])])
    assert "'doc': give one of text, json" in capsys.readouterr().err


# --- what is shown meanwhile


def test_segments_are_shown_as_they_come(clips, capsys):
    assert main(["transcribe", "--verbose", str(clips[0][0])]) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(rf"\[\d\.\d\d --> \d\.\d\d\] {clips[0][1]}\n", captured.err)
    assert captured.out == clips[0][1] + "\n"


def test_a_long_file_shows_its_progress_on_a_terminal(clips, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE", -1.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    file = str(clips[0][0])
    assert main(["transcribe", file]) == 0
    shown = capsys.readouterr().err.split("\r\x1b[K")
    assert re.fullmatch(rf"{Path(file).name}: 0:0\d of 0:0\d, \d+ times real time, 0:00 left", shown[1])
    assert shown[-1] == ""  # and it is removed
    assert main(["transcribe", "--quiet", file]) == 0
    assert capsys.readouterr().err == ""


def test_progress_counts_hours():
    progress = terminal.Progress("a", 7200.0)
    assert progress.line(3600.0, 60.0) == "a: 1:00:00 of 2:00:00, 60 times real time, 1:00 left"
    assert terminal.Progress("a", None).line(90.0, 9.0) == "a: 1:30, 10 times real time"


# --- channels


def test_the_channels_of_a_call_are_transcribed_one_by_one(clips, tmp_path, capsys):
    (left, one), (right, two) = clips[:2]
    a, b = read(left), read(right)
    call = np.zeros((len(a.samples) + len(b.samples) + 2 * a.rate, 2), np.float32)
    call[: len(a.samples), 0] = a.samples
    call[-len(b.samples) :, 1] = b.samples
    file = tmp_path / "call.wav"
    soundfile.write(file, call, a.rate)
    options = ["transcribe", "--channels", "split"]
    assert main([*options, str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"1: {one}", f"2: {two}"]
    out = tmp_path / "out"
    assert main([*options, "-f", "json,ctm,srt,vtt,textgrid", "-o", str(out), str(file)]) == 0
    found = json.loads((out / "call.json").read_text())
    assert (found["channels"], found["text"]) == (2, f"{one} {two}")
    assert [(w["channel"], w["word"]) for w in found["words"]] == [(1, w) for w in one.split()] + [
        (2, w) for w in two.split()
    ]
    rows = [line.split() for line in (out / "call.ctm").read_text().splitlines()]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("call", str(w["channel"]), w["word"]) for w in found["words"]
    ]
    assert "[2] " in (out / "call.srt").read_text()
    assert "<v channel 1>" in (out / "call.vtt").read_text()
    grid = (out / "call.TextGrid").read_text()
    assert '"channel 1"' in grid
    assert '"channel 2"' in grid


def test_a_pipe_has_channels_too(clips, capsys, monkeypatch):
    (file, said) = clips[0]
    samples = read(file)
    data = io.BytesIO()
    soundfile.write(data, np.stack([samples.samples, 0 * samples.samples], 1), samples.rate, format="WAV")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data.getvalue())))
    assert main(["transcribe", "--channels", "split", "-"]) == 0
    assert capsys.readouterr().out == f"1: {said}\n"
