"""Turns in the service's own protocol: those of the session, for clients that ask for them."""

from __future__ import annotations

import json
import socket

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from samba_asr.client import Client
from samba_asr.serve import protocol
from samba_asr.session import EagerEnd, Final, SpeechStarted, TurnEnded, TurnResumed, TurnRules
from tests.serve.front import LATENCY, heard, pcm, until
from tests.support.service import Service
from tests.support.sound import noise

TURNS = {"turns": True, "eager_ms": 80, "end_ms": 200}
KINDS = ("speech_started", "eager_end", "turn_resumed", "turn_ended", "final")
SOUND = pcm(noise(2.0))


def expected(recognizer) -> list[dict]:
    """The messages of the session's events, in their order."""
    found, segments = [], 0
    for event in recognizer.listen(heard(SOUND), latency_ms=LATENCY, turns=TurnRules(eager=0.08, end=0.2)):
        if isinstance(event, Final):
            found.append(protocol.final(event.segment, segments, words=True))
            segments += 1
        elif isinstance(event, SpeechStarted | EagerEnd | TurnResumed | TurnEnded):
            found.append(protocol.turn(event, segments, words=True))
    return found


def test_a_session_reports_its_turns(start, pausing):
    want = expected(pausing)
    assert {message["type"] for message in want} == set(KINDS)
    with start(pausing).websocket_connect("/v1/stream") as socket:
        socket.send_json({"type": "start", **TURNS})
        for at in range(0, len(SOUND), 5000):
            socket.send_bytes(SOUND[at : at + 5000])
        socket.send_json({"type": "stop"})
        messages = until(socket, "done")
    assert [message for message in messages if message["type"] in KINDS] == want
    assert all("turn_end" in message for message in messages if message["type"] == "partial")
    url = "/v1/transcribe/stream?turns=true&eager_ms=80&end_ms=200"
    lines = start(pausing).post(url, content=SOUND).text.splitlines()
    assert [message for message in map(json.loads, lines) if message["type"] in KINDS] == want


def test_who_does_not_ask_gets_none(start, pausing):
    with start(pausing).websocket_connect("/v1/stream") as socket:
        socket.send_bytes(SOUND)
        socket.send_json({"type": "stop"})
        messages = until(socket, "done")
    assert {message["type"] for message in messages} <= {"ready", "partial", "final", "quiet", "done"}
    assert all("turn_end" not in message for message in messages)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"eager_ms": 300}, "add turns=true"),
        ({"turns": True, "eager_ms": 10}, "eager_ms=10: give 40 to 10000 ms"),
        ({"turns": True, "end_ms": -1}, "end_ms"),
        ({"turns": True, "end_ms": 1e9}, "end_ms"),
    ],
)
def test_silences_that_make_no_sense(start, given, problem):
    with start().websocket_connect("/v1/stream") as socket:
        socket.send_json({"type": "start", **given})
        error = until(socket, "done")[0]
    assert (error["type"], error["code"]) == ("error", "bad_request")
    assert problem in error["message"]


def test_the_client_asks_for_turns(monkeypatch):
    monkeypatch.setattr(Client, "_open", lambda self: None)
    client = Client("ws://localhost:1", turns=TurnRules(eager=0.08, end=0.2))
    assert client._start.items() >= TURNS.items()
    assert Client("ws://localhost:1", turns=TurnRules())._start.items() >= {"turns": True}.items()


def test_after_a_broken_connection_all_times_go_on(pausing):
    """Those of partials and turns too, and the numbers of segments."""
    service, samples = Service(pausing), noise(2.0)
    turns = TurnRules(eager=0.08, end=0.2)
    try:
        messages, later = [], []
        with Client(service.url, turns=turns, on_message=messages.append) as client:
            client.send(samples[:16000])
            client.flush()
            done, segments = len(messages), len(client.finals)
            client._socket.socket.shutdown(socket.SHUT_RDWR)
            client.send(samples[16000:])
            client.finish()
        with Client(service.url, turns=turns, on_message=later.append) as client:
            client.send(samples[16000:])
            client.finish()
    finally:
        service.stop()
    assert segments
    found = [message for message in messages[done:] if message["type"] in KINDS]
    assert {message["type"] for message in found} == set(KINDS)
    assert found == [_later(message, 1.0, segments) for message in later if message["type"] in KINDS]
    assert all(message["until"] > 1.0 for message in messages[done:] if message["type"] in ("partial", "quiet"))
    assert messages[-1] == {"type": "done", "seconds": 2.0}


def _later(message: dict, seconds: float, segments: int) -> dict:
    moved = {key: round(message[key] + seconds, 3) for key in ("start", "end", "until", "at") if key in message}
    if "words" in message:
        moved["words"] = [_later(word, seconds, 0) for word in message["words"]]
    return message | moved | ({"segment": message["segment"] + segments} if "segment" in message else {})
