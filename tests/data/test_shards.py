"""Shards: tar and Parquet files are corpora, read at random, without unpacking."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samba_asr.audio.archive import container, parse
from samba_asr.audio.read import AudioError, info, read
from samba_asr.cli import main
from samba_asr.data.manifest import Utterance, read_manifest, write_manifest
from samba_asr.data.readers import read_corpus
from samba_asr.data.shard_writer import write_shards
from samba_asr.errors import UserError


def samples(n: int, s: int = 4000) -> np.ndarray:
    return (0.1 * np.random.default_rng(n).standard_normal(s)).astype(np.float32)


def sound(n: int, s: int = 4000, kind: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples(n, s), 8000, format=kind, subtype="PCM_16")
    return file.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def same(address: str, data: bytes) -> None:
    np.testing.assert_array_equal(read(address).samples, read(data).samples)


# ---- addresses -------------------------------------------------------------------------------------------------------


def test_an_address_reads_a_part_of_a_file_as_the_file_itself(tmp_path):
    first, second = sound(1), sound(2, kind="WAV")
    (tmp_path / "all").write_bytes(b"x" * 7 + first + second)
    one, two = f"{tmp_path}/all#7+{len(first)}", f"{tmp_path}/all#{7 + len(first)}+{len(second)}"
    same(one, first)
    same(two, second)
    assert info(two) == info(second)
    np.testing.assert_array_equal(
        read(two, start=0.1, duration=0.2).samples, read(second, start=0.1, duration=0.2).samples
    )


def test_a_file_whose_name_looks_like_an_address_is_a_file(tmp_path):
    path = tmp_path / "a#1+2"
    path.write_bytes(sound(1))
    assert parse(str(path)) is None
    assert container(str(path)) == str(path)
    assert len(read(path).samples) == 4000


@pytest.mark.parametrize("address", ["missing.tar#0+10", "missing.parquet#audio[0]"])
def test_a_missing_archive_is_an_error_that_names_it(tmp_path, address):
    with pytest.raises(AudioError, match=r"missing\.(tar|parquet)"):
        read(tmp_path / address)


def test_an_address_beyond_the_end_is_an_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(sound(1))
    with pytest.raises(AudioError, match="it is cut, or not the one"):
        read(tmp_path / "a.tar#100+1000000")


# ---- WebDataset ------------------------------------------------------------------------------------------------------


def test_members_of_one_key_are_an_utterance(tmp_path):
    shard = tar(
        tmp_path / "000.tar",
        {
            "a/one.flac": sound(1),
            "a/one.txt": b"\xef\xbb\xbfGO ON\r\n",
            "two.wav": sound(2, kind="WAV"),
            "two.json": b'{"sentence": "STOP", "spk": "7", "dur": 0.5}',
            "three.flac": sound(3),
        },
    )
    found = read_corpus(shard)
    assert [(u.id, u.text, u.speaker, u.duration) for u in found] == [
        ("one", "GO ON", "", None),
        ("two", "STOP", "7", 0.5),
        ("three", "", "", None),
    ]
    same(found[1].audio, sound(2, kind="WAV"))


def test_a_member_without_its_partner_is_named_and_the_rest_works(tmp_path, caplog):
    shard = tar(tmp_path / "0.tar", {"a.txt": b"LOST", "b.flac": sound(1), "b.txt": b"KEPT"})
    assert [u.text for u in read_corpus(shard)] == ["KEPT"]
    assert "1 keys have no sound or stand in two places, such as a" in caplog.text


@pytest.mark.parametrize("size", [700, 2000, 12000])
def test_a_cut_shard_costs_what_is_cut(tmp_path, caplog, size):
    tar(tmp_path / "0.tar", {"a.flac": sound(1), "a.txt": b"A"})
    broken = tar(tmp_path / "1.tar", {f"{k}.{e}": d for k in "bc" for e, d in (("flac", sound(2)), ("txt", b"B"))})
    assert broken.stat().st_size > size
    broken.write_bytes(broken.read_bytes()[:size])
    found = read_corpus(tmp_path)
    assert found[0].text == "A"
    assert all(len(read(u.audio).samples) == 4000 for u in found)
    assert "1.tar" in caplog.text


def test_a_compressed_tar_is_refused_with_the_reason(tmp_path):
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(UserError, match="cannot be read at random"):
        read_corpus(tmp_path, format="shards")


# ---- NeMo, lhotse ----------------------------------------------------------------------------------------------------


def test_nemo_tars_with_their_manifest(tmp_path, caplog):
    for shard in (0, 1):
        tar(tmp_path / f"audio_{shard}.tar", {"x.wav": sound(shard, kind="WAV"), "long.wav": sound(9, 16000, "WAV")})
    lines = [
        {"audio_filepath": "x.wav", "duration": 0.5, "text": "first", "shard_id": 0},
        {"audio_filepath": "x.wav", "duration": 0.5, "text": "second", "shard_id": 1},
        {"audio_filepath": "long-sub1.wav", "duration": 0.5, "offset": 1.0, "text": "part", "shard_id": 1},
        {"audio_filepath": "gone.wav", "duration": 0.5, "text": "gone", "shard_id": 1},
    ]
    (tmp_path / "tarred_audio_manifest.json").write_text("\n".join(map(json.dumps, lines)))
    found = read_corpus(tmp_path)
    assert [(u.text, u.start, u.duration) for u in found] == [("first", 0, 0.5), ("second", 0, 0.5), ("part", 1.0, 0.5)]
    same(found[0].audio, sound(0, kind="WAV"))
    same(found[1].audio, sound(1, kind="WAV"))
    assert "1 utterances are in no shard, such as gone.wav" in caplog.text


def test_lhotse_shar(tmp_path):
    tar(
        tmp_path / "recording.000000.tar",
        {"c1.flac": sound(1), "c1.json": b"{}", "c2.flac": sound(2), "c2.json": b"{}"},
    )
    cuts = [
        {
            "id": f"c{n}",
            "start": 3.25,  # in the recording that the cut came from; the shard holds the cut alone
            "duration": 0.5,
            "channel": 0,
            "supervisions": [
                {"id": f"s{n}", "recording_id": "r", "start": 0.0, "duration": 0.5, "text": f"T{n}", "speaker": "9"}
            ],
            "recording": {
                "id": "r",
                "sources": [{"type": "shar", "channels": [0], "source": ""}],
                "sampling_rate": 8000,
            },
            "type": "MonoCut",
        }
        for n in (1, 2)
    ]
    with gzip.open(tmp_path / "cuts.000000.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(cut) + "\n" for cut in cuts))
    found = read_corpus(tmp_path)
    assert [(u.id, u.text, u.speaker, u.start, u.duration) for u in found] == [
        ("c1", "T1", "9", 0.0, 0.5),
        ("c2", "T2", "9", 0.0, 0.5),
    ]
    same(found[1].audio, sound(2))


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def parquet(path: Path, rows: int, **columns) -> Path:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = {"audio": [{"bytes": sound(n), "path": f"{n}.flac"} for n in range(rows)], **columns}
    pyarrow.parquet.write_table(arrow.table(table), path, row_group_size=3)
    return path


def test_a_table_of_hugging_face(tmp_path):
    path = parquet(
        tmp_path / "train-00000.parquet", 8, sentence=[f"TEXT {n}" for n in range(8)], speaker_id=list(range(8))
    )
    found = read_corpus(path)
    assert [(u.id, u.text, u.speaker) for u in found][6] == ("train-00000-6", "TEXT 6", "6")
    for n in (7, 0, 4):  # in any order
        same(found[n].audio, sound(n))


def test_plain_bytes_are_audio_too(tmp_path):
    path = parquet(tmp_path / "a.parquet", 2, audio=[sound(5), sound(6)], text=["A", "B"])
    same(read_corpus(path)[1].audio, sound(6))


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"text": ["A"], "audio": ["a.wav"]}, "no column of audio bytes among"), ({"noise": ["A"]}, "no column of texts")],
)
def test_a_table_without_audio_or_text_is_refused_by_name(tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        read_corpus(parquet(tmp_path / "a.parquet", 1, **columns))


def test_a_row_without_bytes_is_an_error_of_that_row(tmp_path):
    path = parquet(
        tmp_path / "a.parquet",
        2,
        audio=[{"bytes": None, "path": "x"}, {"bytes": sound(1), "path": "y"}],
        text=["A", "B"],
    )
    first, second = read_corpus(path)
    with pytest.raises(AudioError, match="this row has no bytes"):
        read(first.audio)
    same(second.audio, sound(1))


def test_a_cut_table_costs_its_rows(tmp_path, caplog):
    parquet(tmp_path / "a.parquet", 2, text=["A", "B"])
    broken = parquet(tmp_path / "b.parquet", 2, text=["C", "D"])
    broken.write_bytes(broken.read_bytes()[:-20])
    assert [u.text for u in read_corpus(tmp_path)] == ["A", "B"]
    assert "b.parquet: not a whole Parquet file" in caplog.text


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path) -> list[Utterance]:
    for n in range(6):
        (tmp_path / f"{n}.flac").write_bytes(sound(n))
    return [
        *(Utterance(f"id.{n}/x", str(tmp_path / f"{n}.flac"), f"TEXT {n}", f"s{n}", 0.5) for n in range(5)),
        Utterance("part", str(tmp_path / "5.flac"), "PART", "s5", 0.25, start=0.125),
    ]


def test_shards_hold_what_the_files_held(tmp_path, corpus):
    written = write_shards(corpus, tmp_path / "out", size=9000)
    assert written.shards > 1
    found = read_manifest(written.manifest)
    assert [(u.id, u.text, u.speaker, u.duration) for u in found] == [
        (u.id, u.text, u.speaker, u.duration) for u in corpus
    ]
    for old, new in zip(corpus, found, strict=True):
        np.testing.assert_array_equal(
            read(new.audio, start=new.start, duration=new.duration).samples,
            read(old.audio, start=old.start, duration=old.duration).samples,
        )
    assert {u.id for u in read_corpus(tmp_path / "out", format="shards")} == {u.id for u in corpus}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "manifest.jsonl",
        *(f"{n:06d}.tar" for n in range(written.shards)),
    }


def test_an_interrupted_run_continues_and_gives_the_same_bytes(tmp_path, corpus):
    whole = write_shards(corpus, tmp_path / "whole", size=9000)

    def stop(done: int, total: int) -> None:
        if done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(corpus, tmp_path / "out", size=9000, progress=stop)
    first = tmp_path / "out" / "000000.tar"
    before = first.stat().st_mtime_ns
    write_shards(corpus, tmp_path / "out", size=9000)
    assert first.stat().st_mtime_ns == before
    for n in range(whole.shards):
        name = f"{n:06d}.tar"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_of_other_shards_is_refused(tmp_path, corpus):
    write_shards(corpus, tmp_path / "out")
    with pytest.raises(UserError, match="holds shards already"):
        write_shards(corpus[:2], tmp_path / "out")


def test_the_manifest_of_another_corpus_is_not_replaced(tmp_path, corpus):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"out: holds a manifest\.jsonl"):
        write_shards(corpus, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.jsonl").read_text() == "{}"


def test_an_unreadable_utterance_is_left_out_and_named(tmp_path, corpus):
    (tmp_path / "2.flac").write_bytes(b"nothing")
    written = write_shards(corpus, tmp_path / "out")
    assert [id for id, _ in written.lost] == ["id.2/x"]
    assert written.utterances == 5


def test_the_command_writes_shards_that_prepare_reads(tmp_path, corpus, capsys):
    write_manifest(tmp_path / "m.jsonl", corpus)
    assert main(["shard", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "out"), "--size", "9K"]) == 0
    assert (
        main(
            [
                "prepare",
                str(tmp_path / "out" / "manifest.jsonl"),
                "--out",
                str(tmp_path / "data"),
                "--no-kaldi",
                "--fix",
            ]
        )
        == 0
    )
    assert "6 utterances" in capsys.readouterr().out
    assert main(["shard", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "other"), "--size", "many"]) == 1


def test_a_table_becomes_tar(tmp_path):
    path = parquet(tmp_path / "a.parquet", 4, text=list("ABCD"))
    written = write_shards(read_corpus(path), tmp_path / "out")
    for n, utterance in enumerate(read_manifest(written.manifest)):
        same(utterance.audio, sound(n))
