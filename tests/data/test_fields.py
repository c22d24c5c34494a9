"""Columns and keys mean the same in every reader, whichever tool wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from samba_asr.commands.score import read_transcripts
from samba_asr.data.fields import NAMES
from samba_asr.data.manifest import Utterance, read_manifest
from samba_asr.data.readers import read_corpus
from samba_asr.errors import UserError
from tests.shared import needs_shared, shared

VALUES = {
    "id": "u",
    "audio": "a.wav",
    "text": "ONE TWO",
    "speaker": "s",
    "split": "dev",
    "start": 1.5,
    "duration": 2.0,
    "rate": 8000,
}


def write(path: Path, records: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        rows = [records[0].keys(), *(record.values() for record in records)]
        path.write_text("".join(mark.join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json"])
@pytest.mark.parametrize(("field", "name"), [(f, name) for f, names in NAMES.items() if f != "end" for name in names])
def test_every_name_is_known_to_every_reader(tmp_path, suffix, field, name):
    record = {(name.upper() if key == field else key): value for key, value in VALUES.items()}
    (utterance,) = read_corpus(write(tmp_path / f"t.{suffix}", [record]))
    assert utterance == Utterance(**{**VALUES, "audio": str(tmp_path / "a.wav")})


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("name", NAMES["end"])
def test_a_start_and_an_end_cut_a_segment(tmp_path, suffix, name):
    records = [
        {"path": "a.wav", "start": 0.5, name: 2.0, "text": "ONE"},
        {"path": "a.wav", "start": 2.0, name: 3.25, "text": "TWO"},
    ]
    found = read_corpus(write(tmp_path / f"t.{suffix}", records))
    assert [(u.id, u.start, u.duration, u.text) for u in found] == [
        ("a-0.500", 0.5, 1.5, "ONE"),
        ("a-2.000", 2.0, 1.25, "TWO"),
    ]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"path": "a.wav", "start": 2, "end": 1}, "from 2 to 1 s"),
        ({"path": "a.wav", "end": 0}, "from 0 to 0 s"),
        ({"path": "a.wav", "start": -1, "end": 1}, '"start" is'),
        ({"path": "a.wav", "duration": "nan"}, '"duration" is'),
        ({"path": "a.wav", "offset": "0:01"}, '"start" is "0:01"'),
    ],
)
def test_a_time_that_is_none_is_named_with_its_line(tmp_path, suffix, record, message):
    path = write(tmp_path / f"t.{suffix}", [record])
    with pytest.raises(UserError, match=message) as caught:
        read_corpus(path)
    assert f"t.{suffix}:{2 if suffix == 'csv' else 1}: " in str(caught.value)


def test_kaldis_minus_one_is_the_end_of_the_file(tmp_path):
    (utterance,) = read_corpus(write(tmp_path / "t.csv", [{"path": "a.wav", "start": 1, "end": -1}]))
    assert (utterance.start, utterance.duration) == (1.0, None)


def test_a_text_with_separators_and_no_quotes_is_not_cut_silently(tmp_path):
    (tmp_path / "t.csv").write_text("path,text\na.wav,ONE, TWO\n")
    with pytest.raises(UserError, match=r"t\.csv:2: 3 cells where the first line has 2"):
        read_corpus(tmp_path / "t.csv")


def test_hugging_faces_folder_and_audio_objects(tmp_path):
    records = [
        {"file_name": "x/a.wav", "transcription": "ONE", "speaker_id": 19},
        {"audio": {"path": "b.wav", "array": None, "sampling_rate": 16000}, "text": "TWO", "id": 7},
    ]
    write(tmp_path / "metadata.jsonl", records)
    found = read_corpus(tmp_path)
    assert [(u.id, u.audio, u.text, u.speaker, u.rate) for u in found] == [
        ("a", str(tmp_path / "x/a.wav"), "ONE", "19", None),
        ("7", str(tmp_path / "b.wav"), "TWO", "", 16000),
    ]


def test_hugging_faces_metadata_csv_beside_wavs_is_no_ljspeech(tmp_path):
    (tmp_path / "wavs").mkdir()
    (tmp_path / "metadata.csv").write_text("file_name,transcription\nwavs/a.wav,ONE\n")
    assert [(u.id, u.text) for u in read_corpus(tmp_path)] == [("a", "ONE")]


RECORDING = {
    "id": "rec",
    "sources": [{"type": "file", "channels": [0], "source": "/corpus/rec.flac"}],
    "sampling_rate": 16000,
    "num_samples": 160000,
    "duration": 10.0,
}


def test_lhotse_cuts(tmp_path):
    first = {
        "id": "s1",
        "recording_id": "rec",
        "start": 0.0,
        "duration": 2.0,
        "channel": 0,
        "text": "ONE",
        "speaker": "ann",
    }
    second = {**first, "id": "s2", "start": 2.5, "duration": 1.0, "text": "TWO", "speaker": "bob"}
    cut = {"id": "cut-1", "start": 4.0, "duration": 4.0, "channel": 0, "recording": RECORDING, "type": "MonoCut"}
    cuts = [
        {**cut, "supervisions": [first]},
        {**cut, "id": "cut-2", "supervisions": [first, second]},
        {**cut, "id": "cut-3", "supervisions": []},
    ]
    found = read_manifest(write(tmp_path / "cuts.jsonl", cuts))
    assert [(u.id, u.audio, u.start, u.duration, u.text, u.speaker, u.rate) for u in found] == [
        ("cut-1", "/corpus/rec.flac", 4.0, 2.0, "ONE", "ann", 16000),
        ("s1", "/corpus/rec.flac", 4.0, 2.0, "ONE", "ann", 16000),
        ("s2", "/corpus/rec.flac", 6.5, 1.0, "TWO", "bob", 16000),
        ("cut-3", "/corpus/rec.flac", 4.0, 4.0, "", "", 16000),
    ]


def test_lhotse_supervisions_find_their_recordings(tmp_path):
    write(tmp_path / "x_recordings_dev.jsonl", [RECORDING])
    record = {
        "id": "s1",
        "recording_id": "rec",
        "start": 1.0,
        "duration": 2.0,
        "channel": 0,
        "text": "ONE",
        "speaker": "ann",
    }
    path = write(tmp_path / "x_supervisions_dev.jsonl", [record])
    expected = Utterance("s1", "/corpus/rec.flac", "ONE", "ann", 2.0, 1.0, 16000)
    assert read_manifest(path) == [expected]
    assert [u.audio for u in read_manifest(tmp_path / "x_recordings_dev.jsonl")] == ["/corpus/rec.flac"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_transcripts_for_scoring_know_the_names_too(tmp_path, suffix):
    path = write(tmp_path / f"t.{suffix}", [{"audio_filepath": "x/a.wav", "sentence": "ONE", "client_id": "s"}])
    assert [tuple(line) for line in read_transcripts(path).values()] == [("a", "ONE", "s")]


def test_kaldi_ids_without_audio_are_counted_and_named(tmp_path, caplog):
    (tmp_path / "wav.scp").write_text("a a.wav\n")
    (tmp_path / "text").write_text("a ONE\nb TWO\nc THREE\n")
    found = read_corpus(tmp_path)
    assert [u.id for u in found] == ["a", "b", "c"]
    assert not Path(found[1].audio).exists()  # `validate` counts it as a missing file
    assert "2 ids have no audio in wav.scp, such as b" in caplog.text
    (tmp_path / "segments").write_text("a rec 0 1\n")
    (tmp_path / "wav.scp").write_text("rec a.wav\n")
    assert [u.id for u in read_corpus(tmp_path)] == ["a", "b", "c"]
    assert "no audio in segments" in caplog.text


@needs_shared("cases")
def test_the_case_with_a_mark_is_read():
    (utterance,) = read_corpus(shared("cases/bom_crlf.csv"))
    assert (utterance.id, Path(utterance.audio).name, utterance.text[:12]) == ("u1", "base.wav", "THESE PEOPLE")
