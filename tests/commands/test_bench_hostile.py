"""Bad HTTP, as `samba-asr bench soak` speaks it: the service answers it rightly, and a service that does not is found out."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from samba_asr.bench import hostile
from samba_asr.bench.hostile import ACTS, Hostile
from samba_asr.bench.soak import Soak, Tally
from samba_asr.client import Client
from samba_asr.errors import UserError
from tests.support.service import eventually, serving, uploads
from tests.support.sound import noise


def acted(service: Hostile, name: str, seeds: int) -> list[bool]:
    async def act():
        return [await service.act(name, random.Random(seed)) for seed in range(seeds)]

    return asyncio.run(act())


@pytest.mark.parametrize("name", ACTS)
def test_it_is_answered_as_it_must_be_and_holds_nothing(recognizer, name, monkeypatch, caplog):
    monkeypatch.setattr(hostile, "HOLD", 1.5)
    if name == "wyoming":
        pytest.importorskip("wyoming")
    bounds = {"max_sessions": 2, "max_uploads": 1, "head_seconds": 1.0, "local": True}
    with serving(recognizer, wyoming=name == "wyoming", **bounds) as service:
        port = service.wyoming and service.wyoming.getsockname()[1]
        assert all(acted(Hostile(service.url, port), name, 6))
        eventually(lambda: not service.engine.sessions and uploads(service).free == 1)
        eventually(lambda: not service.server.server_state.connections and not service.server.bounds.others)
    assert not [r for r in caplog.records if r.exc_info]


@pytest.mark.parametrize("name", ["chunks", "not UTF-8", "origin", "rubbish", "not audio"])
def test_a_service_that_takes_everything_is_found_out(name):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            for _ in range(4):
                connection, _ = server.accept()
                connection.recv(1 << 20)
                connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert not any(acted(Hostile(f"ws://127.0.0.1:{server.getsockname()[1]}"), name, 4))
        thread.join()


@pytest.mark.parametrize("url", ["ws://192.0.2.1:8000", "wss://asr.example", "ws://0.0.0.0:80"])
def test_no_service_but_one_of_this_machine(url):
    with pytest.raises(UserError, match="bad HTTP is only for a service on this machine"):
        Hostile(url)


def test_places_that_are_taken_are_seen(recognizer):
    with serving(recognizer, max_sessions=2) as service:
        soak = Soak(service.url, os.getpid(), [], [], 16000, 320.0)
        soak._sockets = 10**6  # the test's own are no place of the service
        assert not any(asyncio.run(soak.held()).values())
        with Client(service.url) as client:
            client.send(noise(0.5))
            place = uploads(service).take()
            assert asyncio.run(soak.held()) == {"sessions": 1, "uploads": 1, "connections": 0}
            place.leave()
            client.finish()
        eventually(lambda: not any(asyncio.run(soak.held()).values()))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="there is no /proc here")
def test_a_connection_that_is_held_is_seen(recognizer):
    with serving(recognizer) as service:
        soak = Soak(service.url, os.getpid(), [], [], 16000, 320.0)
        asyncio.run(soak.held())
        soak._sockets = 0
        before = asyncio.run(soak.held())["connections"]
        with socket.create_connection(("127.0.0.1", service.port)):
            eventually(lambda: asyncio.run(soak.held())["connections"] == before + 2)  # both ends are in this process


def test_memory_that_grows_is_not_flat():
    def tally(growth: float, seconds: float = 1200.0) -> Tally:
        return Tally(memory=[(at, 300.0 + growth * at / 3600) for at in (seconds * n / 20 for n in range(21))])

    assert tally(60.0).flat  # 10 MiB in the ten minutes of the second half
    assert not tally(120.0).flat
    assert tally(1000.0, 300.0).flat  # too short to tell
