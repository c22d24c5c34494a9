"""Two replicas behind a proxy: sessions stay where they began, and one that is taken away loses and doubles nothing."""

from __future__ import annotations

import contextlib

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from samba_asr.client import Client
from tests.support.proxy import Proxy, ready
from tests.support.service import alone, eventually, serving
from tests.support.sound import noise

RATE = 16000
FIRST = 1.2  # seconds that are sent before a replica goes


def heard(service) -> list[float]:
    return sorted(live.session.seconds for live in service.engine.sessions)


def test_a_replica_that_drains_loses_nothing_and_the_others_sessions_stay(recognizer):
    samples = [noise(2.5, seed=i) for i in range(4)]
    half = round(FIRST * RATE)
    with contextlib.ExitStack() as stack:
        going, staying = (stack.enter_context(serving(recognizer, grace_seconds=5.0)) for _ in range(2))
        proxy = stack.enter_context(contextlib.closing(Proxy([going.port, staying.port])))
        opened: list[list[str]] = [[] for _ in samples]  # one `ready` for each connection
        clients = [
            stack.enter_context(Client(proxy.url, on_message=lambda m, seen=seen: seen.append(m["type"])))
            for seen in opened
        ]
        for client, sound in zip(clients, samples, strict=True):
            client.send(sound[:half])
        for service in (going, staying):
            eventually(lambda service=service: heard(service) == pytest.approx([FIRST] * 2, abs=0.01))
        going.stop()  # as by SIGTERM: open sessions are finished, and their last results sent
        assert not ready(going.port)

        for client, sound in zip(clients, samples, strict=True):
            client.send(sound[half:])
        texts = [client.finish() for client in clients]
        moves = [seen.count("ready") - 1 for seen in opened]
        assert sorted(moves) == [0, 0, 1, 1]
        for client, text, sound, moved in zip(clients, texts, samples, moves, strict=True):
            whole, parts = alone(recognizer, sound), (alone(recognizer, sound[:half]), alone(recognizer, sound[half:]))
            # Who moves either read the results of the first part in time, or sends its audio again.
            assert text in ((whole, " ".join(parts)) if moved else (whole,))
            starts = [word["start"] for final in client.finals for word in final["words"]]
            assert starts == sorted(starts)
            assert client.finals[-1]["until"] == pytest.approx(2.5, abs=0.04)
