"""Archives by Ray Data: every file once, its error in its row, also if a worker is killed or the run is called again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import soundfile

from samba_asr.audio.read import read
from samba_asr.batch import Transcriber
from samba_asr.data.manifest import read_manifest
from samba_asr.errors import UserError
from samba_asr.recipes import archive
from tests.support.logs import ours

CORPUS = Path(__file__).resolve().parents[2] / "egs" / "digits" / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six recordings of digits, and one that is none."""
    folder = tmp_path_factory.mktemp("sounds")
    for entry in [u for u in read_manifest(CORPUS / "manifest.jsonl") if u.split == "test"][:6]:
        sound = read(entry.audio, start=entry.start, duration=entry.duration)
        soundfile.write(folder / f"{entry.id}.wav", sound.samples, sound.rate)
    (folder / "bad.flac").write_bytes(b"nothing that sounds")
    return folder


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def texts(folder: Path) -> dict[str, str]:
    recognizer = Transcriber("digits", device="cpu")
    rows = recognizer({"id": str(p), "audio": str(p)} for p in sorted(folder.iterdir()))
    return {row["id"]: row["text"] for row in rows}


def test_a_folder_becomes_rows_once(cluster, folder, tmp_path):
    report = archive.run(str(folder), str(tmp_path), model="digits", workers=2)
    rows = list(archive.written(tmp_path))
    assert {row["id"]: row["text"] for row in rows} == texts(folder)
    assert len(rows) == report["files"] == 7
    assert report["failed"] == [str(folder / "bad.flac")]
    assert all(row["words"][0]["end"] > row["words"][0]["start"] for row in rows if row["text"])
    again = archive.run(str(folder), str(tmp_path), model="digits", workers=2)
    assert again["new_files"] == 0
    with pytest.raises(UserError, match="holds a run with model='digits'"):
        archive.run(str(folder), str(tmp_path), model="english")


def test_workers_that_leave_ray_no_processor_are_warned_of(cluster, caplog):
    archive._start(cluster, 2.0)
    assert not ours(caplog)
    archive._start(cluster, 3.0)
    assert "the workers hold 3 of 3 processors and Ray itself needs one" in caplog.text


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(cluster, folder, tmp_path, monkeypatch):
    """The second part is written after the kill; each row stands there once, with the text that a quiet run has."""
    monkeypatch.setattr(archive, "PART", 2)
    write, killed = archive._write, []

    def and_kill(folder, number, rows, form):
        write(folder, number, rows, form)
        if not killed:
            for name in os.listdir("/proc"):
                if name.isdigit() and b"MapWorker(MapBatches(Worker))" in _command(name):
                    killed.append(int(name))
                    os.kill(int(name), signal.SIGKILL)
                    break

    monkeypatch.setattr(archive, "_write", and_kill)
    report = archive.run(str(folder), str(tmp_path), model="digits", workers=2)
    assert killed
    rows = list(archive.written(tmp_path))
    assert {row["id"]: row["text"] for row in rows} == texts(folder)
    assert len(rows) == report["files"] == 7


def _command(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_parquet_in_and_out(cluster, folder, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    sounds = sorted(folder.glob("*.wav"))
    table = {"id": [p.stem for p in sounds], "audio": [p.read_bytes() for p in sounds]}
    parquet.write_table(arrow.table(table), tmp_path / "in.parquet")
    archive.run(str(tmp_path / "in.parquet"), str(tmp_path / "out"), model="digits", workers=2, form="parquet")
    found = {row["id"]: row for row in archive.written(tmp_path / "out")}
    assert {id: row["text"] for id, row in found.items()} == {p.stem: texts(folder)[str(p)] for p in sounds}
    assert found[sounds[0].stem]["words"][0].keys() == {"word", "start", "end", "confidence"}


def test_a_folder_of_something_else_is_refused(folder, tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    (tmp_path / "mine.txt").write_text("notes")
    with pytest.raises(UserError, match="is not empty, and no output of this recipe"):
        archive._same_plan(tmp_path, {"source": "x"})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"form": "csv"}, "--format 'csv'"), ({"workers": 0}, "workers=0"), ({"cpus": 0}, "cpus=0")],
)
def test_nonsense_is_refused_before_ray_starts(folder, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        archive.run(str(folder), str(tmp_path), **options)
