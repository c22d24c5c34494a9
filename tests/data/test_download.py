"""Downloading, against a server of our own that breaks off, lies and damages."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from samba_asr.data import download as module
from samba_asr.data.download import Archive, DownloadProgress, download, librispeech, unpack
from samba_asr.errors import UserError

DATA = bytes(range(256)) * 8192  # 2 MiB
MD5 = hashlib.md5(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`.  `breaks`: after how many bytes each next answer breaks off; `ranges`: whether it knows Range."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.breaks, self.ranges, self.asked = {"/a.bin": DATA}, [], True, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        stop = start + self.server.breaks.pop(0) if self.server.breaks else len(data)
        self.wfile.write(data[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_arrives_whole(server, tmp_path):
    lines = []
    path = download(f"{server.url}/a.bin", tmp_path / "new" / "a.bin", md5=MD5, progress=lines.append)
    assert path.read_bytes() == DATA
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]
    assert (lines[-1].done, lines[-1].total, lines[-1].left) == (len(DATA), len(DATA), 0.0)


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.breaks = [1_000_000, 0, 0, 500_000]
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=MD5).read_bytes() == DATA
    assert server.asked == [None, "bytes=1000000-", "bytes=1000000-", "bytes=1000000-", "bytes=1500000-"]


def test_an_interrupted_download_is_taken_up_by_the_next_call(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(DATA[:123456])
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=MD5).read_bytes() == DATA
    assert server.asked == ["bytes=123456-"]


def test_a_part_that_is_complete_is_enough(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(DATA)
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=MD5).read_bytes() == DATA


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges, server.breaks = False, [1_000_000]
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=MD5).read_bytes() == DATA


def test_a_connection_that_gives_nothing_is_given_up(server, tmp_path):
    server.breaks = [1000, *[0] * 10]
    with pytest.raises(
        UserError, match=r"broke after 1000 of 2097152 bytes.*fetch http://.*/a\.bin on another machine"
    ):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", retries=3)
    assert len(server.asked) == 4
    assert (tmp_path / "a.bin.part").stat().st_size == 1000  # for the next try


def test_a_damaged_file_is_deleted(server, tmp_path):
    server.files["/a.bin"] = DATA[:-1] + b"x"
    with pytest.raises(UserError, match=r"arrived damaged .*run this again"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=MD5)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_checked_and_not_fetched(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(DATA)
    download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=MD5)
    (tmp_path / "a.bin").write_bytes(b"other")
    with pytest.raises(UserError, match=r"a\.bin: is damaged .*delete it"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", md5=MD5)
    assert server.asked == []


def test_a_file_that_the_server_lacks_is_an_error_at_once(server, tmp_path):
    with pytest.raises(UserError, match="404"):
        download(f"{server.url}/b.bin", tmp_path / "b.bin")
    assert len(server.asked) == 1


def test_without_a_network_the_error_says_what_to_do(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError) as caught:
        download(f"{server.url}/a.bin", tmp_path / "a.bin", retries=2)
    for part in (f"fetch {server.url}/a.bin", str(tmp_path / "a.bin"), "--source"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_noticed_before(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match="make room"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin")


def test_progress_reads_well():
    line = DownloadProgress("a.tar.gz", 120_000_000, 333_000_000, 10e6).line()
    assert line == "a.tar.gz 120 of 333 MB, 10.0 MB/s, 21 s left"
    assert DownloadProgress("a.tar.gz", 120_000_000, None, 0.0).line() == "a.tar.gz 120 MB, 0.0 MB/s"


# Archives


def packed(files: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in files.items():
            if isinstance(content, bytes):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            else:
                tar.addfile(content)
    return file.getvalue()


def test_a_subset_is_downloaded_unpacked_and_then_there(server, tmp_path):
    data = packed({"LibriSpeech/README.TXT": b"hi", "LibriSpeech/tiny/1/2/1-2.trans.txt": b"1-2-0000 HI\n"})
    server.files["/12/tiny.tar.gz"] = data
    archives = {"tiny": Archive(12, hashlib.md5(data).hexdigest())}
    for _ in range(2):
        tree = librispeech("tiny", tmp_path, base=server.url, archives=archives)
    assert tree == tmp_path / "LibriSpeech" / "tiny"
    assert (tree / "1/2/1-2.trans.txt").read_bytes() == b"1-2-0000 HI\n"
    assert len(server.asked) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LibriSpeech"]


def test_two_subsets_share_their_folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.tgz").write_bytes(packed({"L/README": name.encode(), f"L/{name}/x": b"x"}))
        unpack(tmp_path / f"{name}.tgz", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "L").iterdir()) == ["README", "a", "b"]


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    link = tarfile.TarInfo("L/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    outside = ({name: b"x"} for name in ("../evil", "L/../../evil", str(tmp_path / "evil")))
    for evil in (*outside, {"L/link": link, "L/link/evil": b"x"}):
        (tmp_path / "a.tgz").write_bytes(packed(evil))
        with pytest.raises(UserError, match="would write outside its folder"):
            unpack(tmp_path / "a.tgz", tmp_path / "out")
        assert not (tmp_path / "evil").exists()
        assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no tar" + data])
def test_a_damaged_archive_leaves_nothing(tmp_path, damage):
    content = hashlib.shake_256(b"").digest(100_000)
    (tmp_path / "a.tgz").write_bytes(damage(packed({"L/a/x": content, "L/a/y": content})))
    with pytest.raises(UserError, match="is damaged"):
        unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert not (tmp_path / "out" / "L").exists()


def test_an_unknown_subset_is_named(tmp_path):
    with pytest.raises(UserError, match="'train-clean-7' is not a part of LibriSpeech: give one of dev-clean"):
        librispeech("train-clean-7", tmp_path)
