"""The service behind a real socket, and what clients do to it.  It needs the extra serve: skip before importing this."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import torch

from samba_asr.serve.app import create_app
from samba_asr.serve.server import Server
from samba_asr.serve.settings import Settings


class Service:
    def __init__(self, recognizer, port: int = 0, wyoming: bool = False, **changes):
        app = create_app(Settings(**{"latency_ms": 320.0, "grace_seconds": 0.1, **changes}), {"toy": recognizer})
        self.socket = socket.create_server(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        self.wyoming = socket.create_server(("127.0.0.1", 0)) if wyoming else None
        self.server = Server(app, wyoming=self.wyoming, log_level="error", timeout_graceful_shutdown=1)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)
        self.engine = app.state.models.engine()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


def alone(recognizer, samples, rate=16000):
    session = recognizer.stream(rate, latency_ms=320)
    session.accept(samples)
    return session.finish().text


@contextmanager
def serving(recognizer, **changes):
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
    """Read until the service closes; TimeoutError if it does not within 10 s."""
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


def trickle_until_closed(connection: socket.socket, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    with suppress(OSError):
        while time.monotonic() < deadline:
            connection.sendall(b"a")
            time.sleep(0.05)
        pytest.fail("it is still open")


def uploads(service):
    return service.server.app.state.uploads
