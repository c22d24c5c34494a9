"""Hostile clients on a real socket: others are served, and every place is free again."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from samba_asr.client import Client
from samba_asr.errors import UserError
from samba_asr.serve import connections, logs
from tests.support.service import alone, eventually, read_all, sent, serving, trickle_until_closed
from tests.support.sound import noise

CHUNKED = b"POST /v1/transcribe/stream HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
GOOD = b"4\r\n\x00\x00\x00\x00\r\n"
BAD = b"zz\r\n\r\n"


class TestPlacesAreFreed:
    @pytest.mark.parametrize("body", [BAD, GOOD + BAD], ids=["at once", "after a good chunk"])
    def test_after_a_malformed_chunk(self, recognizer, body):
        with serving(recognizer, max_sessions=2) as service:
            for _ in range(4):
                read_all(sent(service, CHUNKED + body))
            eventually(lambda: not service.engine.sessions, 1.0)
            with Client(service.url) as client:
                client.send(noise(1.0))
                assert client.finish() == alone(recognizer, noise(1.0))

    def test_when_a_good_chunk_was_answered_before_the_bad_one(self, recognizer):
        with serving(recognizer, max_sessions=1) as service:
            connection = sent(service, CHUNKED + GOOD)
            while b"ready" not in connection.recv(1 << 16):
                pass
            connection.sendall(BAD)
            read_all(connection)
            eventually(lambda: not service.engine.sessions, 1.0)

    def test_when_a_client_brings_nothing(self, recognizer):
        with serving(recognizer, max_sessions=1, idle_seconds=0.5) as service:
            answer = read_all(sent(service, CHUNKED.replace(b"Host: x", b"Host: x\r\nConnection: close")))
            assert answer.count(b'"code": "idle"') == 1
            assert b'"type": "done"' in answer

    def test_when_a_transport_does_not_let_go(self, recognizer, monkeypatch):
        monkeypatch.setattr("samba_asr.serve.stream.BoundedSession.close", lambda self: None)
        with serving(recognizer, max_sessions=1, idle_seconds=0.5) as service:
            for _ in range(3):
                with connect(f"{service.url}/v1/stream") as live:
                    live.send(json.dumps({"type": "start"}))
                    assert json.loads(live.recv())["type"] == "ready"
                eventually(lambda: not service.engine.sessions)


HALF = b"GET / HTTP/1.1\r\nHost: x\r\nX-"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


def healthy(service) -> bool:
    return b"200 OK" in read_all(sent(service, HEALTH + b"Connection: close\r\n\r\n"))


def closed(connection: socket.socket) -> bool:
    """Whether the service has closed it, now."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class TestConnections:
    def test_half_open_ones_keep_nobody_out(self, recognizer, caplog):
        with serving(recognizer, max_connections=8) as service:
            held = [sent(service, HALF) for _ in range(40)]
            eventually(lambda: len(service.server.server_state.connections) == 8)
            assert healthy(service)
            with Client(service.url) as client:
                client.send(noise(1.0))
                assert client.finish() == alone(recognizer, noise(1.0))
            eventually(lambda: sum(map(closed, held)) >= 32)
            lines = [r for r in caplog.records if "longest without a request" in r.getMessage()]
            assert len(lines) == 1  # a minute

    def test_a_head_has_a_deadline(self, recognizer):
        with serving(recognizer, head_seconds=0.5) as service:
            quiet, half, second = sent(service, b""), sent(service, HALF), sent(service, HEALTH + b"\r\n" + HALF)
            began = time.monotonic()
            for connection in (quiet, half, second):
                read_all(connection)
            assert time.monotonic() - began < 5
            trickle_until_closed(sent(service, HALF))

    def test_what_trickles_in_after_the_answer_does_not_keep_a_connection(self, recognizer):
        with serving(recognizer, head_seconds=0.5) as service:
            trickle_until_closed(sent(service, b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"))

    def test_requests_that_are_served_are_not_closed(self, recognizer):
        with serving(recognizer, max_connections=2, head_seconds=0.3, idle_seconds=10) as service:
            live = [sent(service, CHUNKED + GOOD) for _ in range(2)]
            eventually(lambda: len(service.engine.sessions) == 2)
            assert read_all(sent(service, b"")).startswith(b"HTTP/1.1 503 ")  # there is none to give way
            time.sleep(0.5)
            for connection in live:
                connection.sendall(b"0\r\n\r\n")
                data = b""
                while b'"done"' not in data:
                    data += connection.recv(1 << 16)
            eventually(lambda: not service.server.server_state.connections)  # and now they are late
            assert healthy(service)

    def test_a_malformed_request_gets_400_and_no_traceback(self, recognizer, caplog):
        upload = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        with serving(recognizer) as service:
            for data in (b"rubbish\r\n\r\n", upload + BAD, CHUNKED + BAD):
                assert read_all(sent(service, data)).startswith(b"HTTP/1.1 400 ")
            read_all(sent(service, CHUNKED + GOOD + BAD))
        assert not [r for r in caplog.records if r.exc_info]

    def test_a_client_that_reads_nothing_is_disconnected(self, recognizer):
        with serving(recognizer, idle_seconds=0.5) as service:
            page = sent(service, b"GET /page.js HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
            eventually(lambda: service.server.server_state.connections)
            eventually(lambda: not service.server.server_state.connections)
            page.close()


class TestSocketsThatBringNothing:
    @pytest.mark.parametrize("path", ["/v1/stream", "/vosk"])
    def test_they_are_closed_though_they_talk(self, recognizer, path):
        message = json.dumps({"type": "ping"} if path == "/v1/stream" else {"config": {}})
        with serving(recognizer, idle_seconds=0.5) as service, connect(service.url + path) as idle:
            began = time.monotonic()
            with suppress(ConnectionClosed):
                while time.monotonic() - began < 5:
                    idle.send(message)
                    time.sleep(0.1)
                pytest.fail("it is still open")

    def test_the_longest_one_gives_way(self, recognizer):
        with serving(recognizer, max_connections=8) as service, ExitStack() as stack:
            held = [stack.enter_context(connect(f"{service.url}/v1/stream")) for _ in range(7)]
            for one in held[:3]:
                assert json.loads(one.recv(timeout=5))["code"] == "idle"
            with Client(service.url) as client:
                client.send(noise(1.0))
                assert client.finish() == alone(recognizer, noise(1.0))
            held[-1].send(json.dumps({"type": "ping"}))
            assert json.loads(held[-1].recv(timeout=5)) == {"type": "pong"}


class TestVosk:
    def test_a_websocket_client_that_does_not_read_is_disconnected(self, recognizer):
        with serving(recognizer, max_sessions=1, idle_seconds=1.0) as service:
            service.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # what it accepts inherits this
            silent = socket.socket()
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            silent.settimeout(1.0)
            silent.connect(("127.0.0.1", service.port))
            head = "GET /vosk HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            silent.sendall(f"{head}Sec-WebSocket-Key: {'A' * 22}==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
            frames = b"\x82\x82\x00\x00\x00\x00\x01\x00" * 1000  # each a sample, and a reply
            deadline, open_ = time.monotonic() + 60, True
            while open_ and time.monotonic() < deadline:
                try:
                    silent.sendall(frames)
                except TimeoutError:
                    pass
                except OSError:
                    open_ = False
            assert not open_
            eventually(lambda: not service.engine.sessions)

    def test_text_that_is_not_utf8(self, recognizer, caplog):
        with serving(recognizer) as service:
            for path in ("/vosk", "/v1/stream"):
                with connect(service.url + path) as live:
                    live.send(b"\xff\xfe", text=True)
                    with pytest.raises(ConnectionClosed) as closed:
                        live.recv(timeout=5)
                    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1007, "a text message is UTF-8")
        assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1
        assert not [r for r in caplog.records if r.exc_info]


UPGRADE = b"GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
UPGRADE += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"


@pytest.mark.parametrize("path", [b"/v1/stream", b"/vosk"])
def test_what_comes_with_the_handshake_is_heard(recognizer, path):
    with serving(recognizer) as service:
        audio = b"\x82\x82\x00\x00\x00\x00\x01\x00"  # a frame of one sample
        connection = sent(service, UPGRADE % path + audio)
        data = b""
        while b'"ready"' not in data and b'"partial"' not in data:
            data += connection.recv(1 << 16)
        eventually(lambda: len(service.engine.sessions) == 1)
        connection.close()


@pytest.mark.parametrize("bad", [b"\x81\x82\x00\x00\x00\x00\xff\xfe", b"\xff\xff"], ids=["not UTF-8", "no frame"])
def test_what_is_bad_with_the_handshake_is_refused_after_it(recognizer, bad, caplog):
    with serving(recognizer) as service:
        answer = read_all(sent(service, UPGRADE % b"/v1/stream" + bad))
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"\x03\xef" in answer or b"\x03\xea" in answer  # 1007, 1002
    assert not [r for r in caplog.records if r.exc_info]


@pytest.mark.parametrize("path", ["/v1/stream", "/vosk"])
def test_a_websocket_that_is_gone_leaves_no_traceback(recognizer, path, caplog):
    with serving(recognizer) as service:
        for _ in range(2):
            with connect(service.url + path) as live:
                live.send(b"\x01\x00")
                live.recv(timeout=5)
                live.socket.shutdown(socket.SHUT_RDWR)
        eventually(lambda: not service.server.server_state.connections)
        eventually(lambda: not service.server.server_state.tasks)
    assert not [r for r in caplog.records if r.exc_info]


class TestRateLimit:
    def test_a_line_a_minute_with_the_number_of_those_left_out(self, caplog):
        logger, now = logging.getLogger("test.rate_limit"), [0.0]
        rate_limit = logs.RateLimit()
        logger.addFilter(rate_limit)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logs.time, "monotonic", lambda: now[0])
            for _ in range(50):
                logger.error("socket.accept() out of system resource\nsocket: %s", "x", exc_info=OSError(24, "many"))
                logger.error("another")
            now[0] = 61.0
            logger.error("another")
        assert [r.getMessage()[:7] for r in caplog.records] == ["socket.", "another", "another"]
        assert caplog.records[-1].fields == {"left_out": 49}

    def test_the_service_filters_what_hostile_clients_cause(self):
        script = "from samba_asr.serve import logs; import logging; logs.set_up('text')\n"
        script += "for _ in range(9): logging.getLogger('asyncio').error('accept\\nx'); "
        script += "logging.getLogger('uvicorn.error').warning('invalid')"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert len(done.stderr.splitlines()) == 2


class TestFileLimit:
    def test_connections_fit_into_it(self, caplog):
        assert connections.bound(1000, None) == connections.bound(1000, 4096) == 1000
        assert connections.bound(1000, 1024) == 1024 - connections.RESERVE
        assert "fewer connections" in caplog.text
        with pytest.raises(UserError, match="64 open files are too few"):
            connections.bound(1000, 64)

    def test_the_soft_limit_is_raised(self):
        resource = pytest.importorskip("resource")
        script = "import resource; from samba_asr.serve.connections import raise_file_limit; "
        script += "print(raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
        done = subprocess.run(
            [sys.executable, "-c", script],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200)),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["200", "200", "200"]
