"""Manifests: written and read back, and errors that name file and line."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.data.manifest import Utterance, read_manifest, write_kaldi, write_manifest
from samba_asr.data.readers import read_corpus
from samba_asr.errors import UserError

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
utterance = st.builds(
    Utterance,
    id=words.filter(bool),
    audio=st.sampled_from(["/a/b.wav", "/c d/é.flac"]),
    text=words,
    speaker=words,
    duration=st.none() | st.floats(0, 1e4),
    start=st.floats(0, 1e4),
    rate=st.none() | st.integers(1, 96000),
    split=words,
)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_what_is_written_is_read_back(tmp_path, name):
    @settings(max_examples=40, deadline=None)
    @given(utterances=st.lists(utterance, max_size=5))
    def check(utterances):
        write_manifest(tmp_path / name, utterances)
        assert read_manifest(tmp_path / name) == utterances

    check()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_paths_are_relative_to_the_manifest_so_a_folder_can_move(tmp_path):
    old = tmp_path / "old"
    write_manifest(old / "m.jsonl", [Utterance("a", str(old / "wav" / "a.wav")), Utterance("b", "/elsewhere/b.wav")])
    shutil.move(old, tmp_path / "new")
    audio = [u.audio for u in read_manifest(tmp_path / "new" / "m.jsonl")]
    assert audio == [str(tmp_path / "new" / "wav" / "a.wav"), "/elsewhere/b.wav"]


def test_relative_audio_is_not_taken_from_the_present_folder(tmp_path, monkeypatch):
    (tmp_path / "m.jsonl").write_text('{"id": "a", "audio": "wav/a.wav"}\n')
    monkeypatch.chdir("/")
    assert read_manifest(tmp_path / "m.jsonl")[0].audio == str(tmp_path / "wav" / "a.wav")


def test_nemo_keys_are_understood_and_ids_are_made(tmp_path):
    lines = [
        {"audio_filepath": "/x/my file.wav", "text": "hi", "duration": 2, "lang": "en"},
        {"audio_filepath": "/x/b.wav", "text": "ho", "duration": 1.5, "offset": 3},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_manifest(tmp_path / "m.jsonl") == [
        Utterance("my_file", "/x/my file.wav", "hi", duration=2),
        Utterance("b-3.000", "/x/b.wav", "ho", duration=1.5, start=3),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "m.jsonl:2: not JSON"),
        ("[1]", "m.jsonl:2: a line must be one JSON object"),
        ('{"id": "a"}', 'm.jsonl:2: no "audio"'),
        ('{"audio": "a.wav", "duration": "2"}', 'm.jsonl:2: "duration" is "2": give a number without quotes'),
        ('{"audio": "a.wav", "duration": NaN}', 'm.jsonl:2: "duration" is NaN'),
        ('{"audio": "a.wav", "start": -1}', 'm.jsonl:2: "start" is -1'),
        ('{"audio": "a.wav", "text": 7}', 'm.jsonl:2: "text" is 7: give text in quotes'),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav"}\n' + line + "\n")
    with pytest.raises(UserError) as caught:
        read_manifest(tmp_path / "m.jsonl")
    assert message in str(caught.value)


def test_a_file_that_is_no_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match="no such manifest"):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "m.jsonl.gz").write_bytes(b"plain")
    for name in ("m.jsonl", "m.jsonl.gz"):
        with pytest.raises(UserError, match="not a JSONL manifest"):
            read_manifest(tmp_path / name)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.jsonl"
    write_manifest(path, [Utterance("a", "/a.wav")])
    with pytest.raises(RuntimeError):
        write_manifest(
            path, (Utterance("b", "/b.wav") if i == 0 else (_ for _ in ()).throw(RuntimeError) for i in "01")
        )
    assert [u.id for u in read_manifest(path)] == ["a"]


# Kaldi's folders


def test_kaldi_files_are_sorted_by_bytes_as_kaldi_wants(tmp_path):
    utterances = [
        Utterance("s2-b", "/x/2.wav", "TWO  WORDS", "s2"),
        Utterance("s1-a", "/x/1.wav", "ONE", "s1"),
        Utterance("s2-B", "/x/3.wav", "", "s2"),
    ]
    write_kaldi(tmp_path, utterances)
    assert (tmp_path / "text").read_text() == "s1-a ONE\ns2-B\ns2-b TWO WORDS\n"
    assert (tmp_path / "wav.scp").read_text() == "s1-a /x/1.wav\ns2-B /x/3.wav\ns2-b /x/2.wav\n"
    assert (tmp_path / "utt2spk").read_text() == "s1-a s1\ns2-B s2\ns2-b s2\n"
    assert (tmp_path / "spk2utt").read_text() == "s1 s1-a\ns2 s2-B s2-b\n"
    assert not (tmp_path / "segments").exists()


def test_parts_of_files_become_segments_and_come_back(tmp_path):
    utterances = [
        Utterance("a-1", "/x/a.wav", "ONE", "a", 1.25, 0.0),
        Utterance("a-2", "/x/a.wav", "TWO", "a", 2.0, 1.5),
        Utterance("b-1", "/x/b.wav", "", "b", 0.123457, 0.25),
    ]
    write_kaldi(tmp_path, utterances)
    assert read_corpus(tmp_path) == utterances
    write_kaldi(tmp_path, [Utterance("c", "/x/c.wav")])
    assert not (tmp_path / "segments").exists()


def test_segments_need_durations(tmp_path):
    with pytest.raises(UserError, match="a has none: measure durations first"):
        write_kaldi(tmp_path, [Utterance("a", "/x/a.wav", start=1.0)])


@pytest.mark.parametrize("bad", [Utterance("a b", "/a.wav"), Utterance("a", "/a.wav", speaker="Jo Do")])
def test_kaldi_cannot_hold_blanks_in_names(tmp_path, bad):
    with pytest.raises(UserError, match="ids and speakers must be single words"):
        write_kaldi(tmp_path, [bad])


def test_kaldi_cannot_hold_an_id_twice(tmp_path):
    with pytest.raises(UserError, match="'a' occurs twice"):
        write_kaldi(tmp_path, [Utterance("a", "/a.wav"), Utterance("a", "/b.wav")])
