"""Uploads: nobody works for a client that is gone, and what a client may hold, on disk and of places, is bounded."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from tests.support.service import eventually, read_all, sent, serving, trickle_until_closed, uploads
from tests.support.sound import encoded, noise

HEAD = (
    "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n"
)


def form(data: bytes, **fields: str) -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()]
    file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + data + b"\r\n--b--\r\n"
    return "".join(parts).encode() + file


def request(data: bytes, **fields: str) -> bytes:
    body = form(data, **fields)
    return (HEAD % len(body)).encode() + body


def wav(rate: int, bits: int = 16, size: int = 28000) -> bytes:
    """A file whose header says what it likes."""
    form = struct.pack("<IHHIIHH", 16, 1, 1, rate, rate * bits // 8 % 2**32, bits // 8, bits)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + form + b"data" + struct.pack("<I", size) + bytes(size)


class TestAClientThatLeaves:
    @pytest.mark.parametrize("stream", ["true", "false"])
    def test_ends_the_work_though_nothing_is_said(self, recognizer, stream):
        silence = encoded(np.zeros(8000 * 7200, np.int16), 8000, "FLAC")
        assert len(silence) < 200_000
        with serving(recognizer, max_uploads=2) as service:
            held = [sent(service, request(silence, stream=stream)) for _ in range(2)]
            eventually(lambda: not uploads(service).free)
            for connection in held:
                connection.close()
            eventually(lambda: uploads(service).free == 2)
            answer = read_all(
                sent(service, request(encoded(noise(1.0))).replace(b"Host: x", b"Connection: close\r\nHost: x"))
            )
            assert answer.startswith(b"HTTP/1.1 200 ")

    def test_while_events_come(self, recognizer):
        long = encoded(np.tile(noise(60.0), 30))
        with serving(recognizer, max_uploads=1) as service:
            connection = sent(service, request(long, stream="true"))
            while b"transcript.text.delta" not in connection.recv(1 << 16):
                pass
            connection.close()
            eventually(lambda: uploads(service).free == 1)


class TestPlaces:
    def test_one_is_taken_before_the_body_is_read(self, recognizer):
        whole = request(bytes(1 << 20))
        with serving(recognizer, max_uploads=1, idle_seconds=1.0) as service:
            stopped = sent(service, whole[: 1 << 19])
            eventually(lambda: not uploads(service).free)
            refused = read_all(sent(service, whole.replace(b"Host: x", b"Connection: close\r\nHost: x")))
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 5" in refused
            eventually(lambda: uploads(service).free == 1)
            assert stopped.recv(1 << 16).startswith(b"HTTP/1.1 408 ")

    def test_a_body_has_a_deadline_however_it_trickles(self, recognizer):
        with serving(recognizer, max_uploads=1, max_upload_seconds=1.0, head_seconds=0.5) as service:
            slow = sent(service, request(bytes(1 << 20))[:1000])
            eventually(lambda: not uploads(service).free)
            trickle_until_closed(slow)
            assert uploads(service).free == 1

    def test_a_body_that_is_malformed_gives_it_back(self, recognizer):
        bad = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"
        with serving(recognizer, max_uploads=1) as service:
            for _ in range(3):
                assert read_all(sent(service, bad)).startswith(b"HTTP/1.1 400 ")
            eventually(lambda: uploads(service).free == 1)


def test_a_file_is_read_from_disk_and_closed(start, recognizer, monkeypatch):
    seen, transcribe = [], type(recognizer).transcribe

    def watched(self, source, **keywords):
        seen.append((source, os.fstat(source.fileno()).st_size))
        return transcribe(self, source, **keywords)

    monkeypatch.setattr(type(recognizer), "transcribe", watched)
    samples = noise(3.0)
    for kind in ("WAV", "FLAC", "OGG"):
        data = encoded(samples, kind=kind, subtype="VORBIS" if kind == "OGG" else "PCM_16")
        answer = start().post("/v1/audio/transcriptions", files={"file": ("a", data)})
        source, size = seen.pop()
        assert answer.json()["text"] == transcribe(recognizer, data).text != ""
        assert size == len(data)
        assert source.closed
    bad = start().post("/v1/audio/transcriptions", files={"file": ("a", b"no audio at all" * 99)})
    assert bad.status_code == 400
    assert "cannot be read: a: " in bad.json()["error"]["message"]
    assert seen.pop()[0].closed


def test_one_file_and_few_fields(start):
    client, file = start(), encoded(noise(0.5))
    two = [("file", ("a", file)), ("file", ("b", file))]
    assert client.post("/v1/audio/transcriptions", files=two).status_code == 400
    many = {f"field{n}": "x" for n in range(50)}
    assert client.post("/v1/audio/transcriptions", files={"file": ("a", file)}, data=many).status_code == 400
    long = {"prompt": "x" * 100_000}
    assert client.post("/v1/audio/transcriptions", files={"file": ("a", file)}, data=long).status_code == 400


@pytest.mark.parametrize(
    "header", [wav(1), wav(999), wav(2**31 - 1), wav(16000, bits=0)], ids=["1", "999", "2G", "0 bit"]
)
def test_headers_that_make_no_sense_are_refused_at_once(start, header):
    answer = start().post("/v1/audio/transcriptions", files={"file": ("a.wav", header)})
    assert answer.status_code == 400
    assert "cannot be read" in answer.text


def test_a_body_that_is_too_large_is_refused_whatever_it_is_for(start):
    client = start(max_upload_bytes=1 << 20)
    for path in ("/v1/audio/transcriptions", "/v1/models"):
        assert client.post(path, content=bytes(3 << 20)).status_code in (405, 413)
    assert client.post("/v1/audio/transcriptions", files={"file": ("a", bytes(3 << 20))}).status_code == 413
