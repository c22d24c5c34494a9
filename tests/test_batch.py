"""Many files: rows in, rows out, in threads, with errors in their rows, and resumed where they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from samba_asr.audio.read import read
from samba_asr.batch import Transcriber, transcribe_many
from samba_asr.cli import main
from samba_asr.data.manifest import read_manifest
from samba_asr.errors import UserError

CORPUS = Path(__file__).resolve().parents[1] / "egs" / "digits" / "data"


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber("digits", device="cpu")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    entries = [u for u in read_manifest(CORPUS / "manifest.jsonl") if u.split == "test"][:5]
    folder, rows = tmp_path_factory.mktemp("sounds"), []
    for entry in entries:
        sound = read(entry.audio, start=entry.start, duration=entry.duration)
        soundfile.write(folder / f"{entry.id}.wav", sound.samples, sound.rate)
        rows.append({"id": entry.id, "audio": str(folder / f"{entry.id}.wav"), "duration": sound.duration})
    bad = tmp_path_factory.mktemp("bad") / "bad.flac"
    bad.write_bytes(b"nothing that sounds")
    return [*rows[:2], {"id": "bad", "audio": str(bad)}, *rows[2:]]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, rows) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_row_has_what_transcribe_gives(transcriber, rows):
    recognizer = transcriber.recognizer
    for row, found in zip(rows, transcriber(rows), strict=True):
        assert found["id"] == row["id"]
        if row["id"] == "bad":
            assert "bad.flac" in found["error"]
            assert found["text"] == ""
            continue
        wanted = recognizer.transcribe(row["audio"], text="written")
        assert found["text"] == wanted.readable
        assert found["spoken"] == wanted.text
        assert found["words"] == [word.entry() for word in wanted.words]
        assert found["error"] == ""
        assert 0 < found["confidence"] <= 1


def test_bytes_are_a_row_too(transcriber, rows):
    (found,) = transcriber([{"id": "x", "audio": Path(rows[0]["audio"]).read_bytes()}])
    assert found == {**transcriber(rows[:1])[0], "id": "x", "audio": ""}


def test_a_part_of_a_file_is_transcribed_alone(transcriber, rows):
    half = read(rows[0]["audio"]).duration / 2
    (found,) = transcriber([{"audio": rows[0]["audio"], "start": half}])
    assert found["duration"] == pytest.approx(half, abs=0.01)


@pytest.mark.parametrize("row", [{}, {"audio": ""}, {"audio": None, "id": "x"}])
def test_a_row_without_audio_is_an_error_of_that_row(transcriber, row):
    assert "no `audio`" in transcriber([row])[0]["error"]


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_every_row_is_done_once_whatever_the_jobs(transcriber, rows, jobs):
    found = dict(transcribe_many(transcriber.recognizer, rows, jobs=jobs))
    assert [found[i] for i in range(len(rows))] == transcriber(rows)


@pytest.mark.parametrize("jobs", [1, 3])
def test_files_keep_their_order_and_errors_stand_in_their_places(transcriber, rows, jobs):
    files = [*(row["audio"] for row in rows), Path(rows[0]["audio"]).read_bytes()]
    found = list(transcriber.recognizer.transcribe_many(files, jobs=jobs, text="written"))
    wanted = transcriber(rows)
    assert [one.file for one in found] == files
    assert [one.result and one.result.readable for one in found[:-1]] == [row["text"] or None for row in wanted]
    assert [one.error for one in found] == [*(row["error"] for row in wanted), ""]
    assert found[-1].result == found[0].result  # bytes, too


def test_wrong_options_of_many_files_are_one_error(transcriber, rows):
    with pytest.raises(UserError, match="41"):
        transcriber.recognizer.transcribe_many([rows[0]["audio"]], latency_ms=41)


def test_no_jobs_are_refused(transcriber, rows):
    with pytest.raises(UserError, match="jobs=0"):
        list(transcribe_many(transcriber.recognizer, rows, jobs=0))


def command(manifest: Path, out: Path, *more: str) -> int:
    return main(["transcribe", "--model", "digits", "--manifest", str(manifest), "-o", str(out), *more])


def test_the_command_keeps_the_order_and_names_the_bad_file(transcriber, rows, manifest, tmp_path, capsys):
    assert command(manifest, tmp_path, "--jobs", "2") == 1
    lines = [json.loads(line) for line in (tmp_path / "transcripts.jsonl").read_text("utf-8").splitlines()]
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    assert [line["text"] for line in lines] == [row["text"] for row in transcriber(rows)]
    error = capsys.readouterr().err
    assert "bad.flac" in error
    assert "6 files, " in error
    assert {path.name for path in tmp_path.iterdir()} == {"transcripts.jsonl"}
    assert command(manifest, tmp_path) == 1  # the folder holds a finished run
    assert "holds transcripts.jsonl already" in capsys.readouterr().err


def test_an_interrupted_run_does_only_what_is_left(rows, manifest, tmp_path, monkeypatch, capsys):
    import samba_asr.batch as batch

    whole = tmp_path / "whole"
    command(manifest, whole)
    original, seen = batch.transcribe_row, []

    def until_the_third(recognizer, row, **options):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(row["id"])
        return original(recognizer, row, **options)

    out = tmp_path / "out"
    monkeypatch.setattr(batch, "transcribe_row", until_the_third)
    assert command(manifest, out, "--jobs", "1") == 130
    with open(out / "transcripts.part.jsonl", "a") as file:
        file.write('{"id": "torn')  # a line that was being written
    first = list(seen)

    def rest(recognizer, row, **options):
        assert row["id"] not in first
        return original(recognizer, row, **options)

    monkeypatch.setattr(batch, "transcribe_row", rest)
    capsys.readouterr()
    assert command(manifest, out, "--latency-ms", "640") == 1
    assert "an unfinished run with another latency_ms" in capsys.readouterr().err
    assert command(manifest, out) == 1
    assert "3 of 6 files are done already" in capsys.readouterr().err
    assert (out / "transcripts.jsonl").read_bytes() == (whole / "transcripts.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["x.wav"], "--manifest does not go with files"),
        (["--stream"], "does not go with --stream"),
        (["-f", "srt"], "does not go with --format"),
        (["--jobs", "0"], "--jobs 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(manifest, tmp_path, capsys, more, message):
    assert command(manifest, tmp_path, *more) == 1
    assert message in capsys.readouterr().err


def test_neither_files_nor_a_manifest_is_an_error(capsys):
    assert main(["transcribe"]) == 1
    assert "no files" in capsys.readouterr().err
