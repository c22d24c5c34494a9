"""What hostile clients do to the service behind a real socket: others are served, and every place is free again."""

from __future__ import annotations

import json
import socket
import time
from contextlib import contextmanager

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from websockets.sync.client import connect

from samba_asr.client import Client
from tests.test_client import Service, alone
from tests.test_recognizer import noise, recognizer  # noqa: F401

CHUNKED = b"POST /v1/transcribe/stream HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
GOOD = b"4\r\n\x00\x00\x00\x00\r\n"
BAD = b"zz\r\n\r\n"


@contextmanager
def serving(recognizer, **changes):  # noqa: F811
    torch.set_num_threads(1)
    service = Service(recognizer, **changes)
    try:
        yield service
    finally:
        service.stop()


def sent(service, data: bytes) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", service.port), timeout=10)
    found.sendall(data)
    return found


def read_all(connection: socket.socket) -> bytes:
    """What comes until the service closes; TimeoutError if it does not within 10 s."""
    data = b""
    try:
        while part := connection.recv(1 << 16):
            data += part
    except ConnectionResetError:
        pass
    return data


def eventually(true, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestPlacesAreFreed:
    @pytest.mark.parametrize("body", [BAD, GOOD + BAD], ids=["at once", "after a good chunk"])
    def test_after_a_malformed_chunk(self, recognizer, body):  # noqa: F811
        with serving(recognizer, max_sessions=2) as service:
            for _ in range(4):
                read_all(sent(service, CHUNKED + body))
            eventually(lambda: not service.engine.sessions, 1.0)
            with Client(service.url) as client:
                client.send(noise(1.0))
                assert client.finish() == alone(recognizer, noise(1.0))

    def test_when_a_good_chunk_was_answered_before_the_bad_one(self, recognizer):  # noqa: F811
        with serving(recognizer, max_sessions=1) as service:
            connection = sent(service, CHUNKED + GOOD)
            while b"ready" not in connection.recv(1 << 16):
                pass
            connection.sendall(BAD)
            read_all(connection)
            eventually(lambda: not service.engine.sessions, 1.0)

    def test_when_a_client_brings_nothing(self, recognizer):  # noqa: F811
        with serving(recognizer, max_sessions=1, idle_seconds=0.5) as service:
            answer = read_all(sent(service, CHUNKED.replace(b"Host: x", b"Host: x\r\nConnection: close")))
            assert answer.count(b'"code": "idle"') == 1
            assert b'"type": "done"' in answer

    def test_when_a_transport_does_not_let_go(self, recognizer, monkeypatch):  # noqa: F811
        monkeypatch.setattr("samba_asr.serve.stream.Audio.close", lambda self: None)
        with serving(recognizer, max_sessions=1, idle_seconds=0.5) as service:
            for _ in range(3):
                with connect(f"{service.url}/v1/stream") as live:
                    live.send(json.dumps({"type": "start"}))
                    assert json.loads(live.recv())["type"] == "ready"
                eventually(lambda: not service.engine.sessions)
