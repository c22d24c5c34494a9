"""OpenAI's Realtime API, by the official client, and by clients that are not."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")
openai = pytest.importorskip("openai")

# ruff: noqa: E402
from samba_asr.decoding.transcript import Segment
from samba_asr.serve.realtime import RealtimeSession
from samba_asr.serve.settings import Settings
from samba_asr.session import Final, Partial, SpeechStarted, TurnEnded
from tests.serve.front import LATENCY, heard, pcm
from tests.support.service import serving
from tests.support.sound import noise

RATE = 24000


@pytest.fixture
def english(recognizer):
    """The toy recognizer, as if its few letters were all of English."""
    one = copy.copy(recognizer)
    one.__dict__["_writes_english"] = True
    return one


@pytest.fixture
def service(english):
    with serving(english, tokens=("secret",), latency_ms=LATENCY) as service:
        yield service


@pytest.fixture
def connection(service):
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="secret", max_retries=0)
    with client, client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().type == "session.created"
        yield connection


def manual(connection):
    session = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
    connection.session.update(session=session)
    assert connection.recv().type == "session.updated"


def append(connection, data, size=48_000):
    for at in range(0, len(data), size):
        connection.input_audio_buffer.append(audio=base64.b64encode(data[at : at + size]).decode())


def until(connection, kind):
    found = []
    while not found or found[-1].type != kind:
        found.append(connection.recv())
    return found


COMPLETED = "conversation.item.input_audio_transcription.completed"
DELTA = "conversation.item.input_audio_transcription.delta"


def expected(recognizer, data):
    return recognizer.transcribe(heard(data), rate=RATE, latency_ms=LATENCY, text="written", ahead=0).readable


def test_a_commit_gives_the_text_that_transcribe_gives(connection, english):
    data = pcm(noise(2.0, RATE))
    manual(connection)
    append(connection, data)
    connection.input_audio_buffer.commit()
    events = until(connection, COMPLETED)
    (committed,) = [e for e in events if e.type == "input_audio_buffer.committed"]
    assert events[-1].transcript == expected(english, data) != ""
    assert {e.item_id for e in events} == {committed.item_id}
    deltas = "".join(e.delta for e in events if e.type == DELTA)
    assert deltas
    assert "speech" not in " ".join(e.type for e in events)


def test_with_turn_detection_the_start_of_speech_is_told_and_a_commit_ends_it(connection):
    silence = np.zeros(RATE * 3, np.float32)
    append(connection, pcm(np.concatenate([noise(1.0, RATE), silence])))
    connection.input_audio_buffer.commit()
    kinds = [e.type for e in until(connection, COMPLETED) if e.type != DELTA]
    assert sorted(kinds[:-1]) == ["input_audio_buffer.committed", "input_audio_buffer.speech_started"]


def test_a_segment_is_an_item_and_what_follows_is_another():
    """Without a commit: the events of the engine, in the order in which they come."""
    asyncio.run(_segments())


async def _segments():
    session = RealtimeSession(SimpleNamespace(metrics=None, names=["toy"]), Settings())
    for begin in (0.0, 3.0):
        session.handle(Partial("HELLO THERE", "HELLO", begin + 1))
        session.handle(Final(Segment("HELLO THERE", begin + 0.5, begin + 2, (), begin + 3.0)))
    await asyncio.sleep(0)
    events = [await session.out.get() for _ in range(12)]
    assert [event["type"].rpartition(".")[2] for event in events] == [
        "speech_started", "delta", "speech_stopped", "committed", "delta", "completed",
    ] * 2  # fmt: skip
    first, second = events[5], events[11]
    assert first["transcript"] == "HELLO THERE"
    assert first["item_id"] != second["item_id"]
    assert events[9]["previous_item_id"] == first["item_id"]
    assert (events[2]["audio_end_ms"], events[6]["audio_start_ms"]) == (3000, 3000)


def test_a_final_text_that_changed_what_was_sent_still_sends_its_new_words():
    asyncio.run(_changed())


async def _changed():
    session = RealtimeSession(SimpleNamespace(metrics=None, names=["toy"]), Settings())
    session.handle(Partial("HELLO THERE", "HELLO", 1.0))
    session.handle(Final(Segment("YELLOW THERE", 0.5, 2.0, (), 3.0)))
    await asyncio.sleep(0)
    events = [await session.out.get() for _ in range(6)]
    assert [event["delta"] for event in events if "delta" in event] == ["HELLO", " THERE"]
    assert events[-1]["transcript"] == "YELLOW THERE"


def test_speech_starts_with_its_first_sound_and_a_noise_is_an_item_without_text():
    asyncio.run(_noise())


async def _noise():
    session = RealtimeSession(SimpleNamespace(metrics=None, names=["toy"]), Settings())
    for event in (
        SpeechStarted(0.5),
        TurnEnded(0.6, 1.8),
        SpeechStarted(2.5),
        Final(Segment("HELLO", 2.6, 3.0, (), 4.2)),
        TurnEnded(3.0, 4.2),
    ):
        session.handle(event)
    await asyncio.sleep(0)
    noise, hello = [[await session.out.get() for _ in range(n)] for n in (4, 5)]
    assert [event["type"].rpartition(".")[2] for event in noise] == [
        "speech_started", "speech_stopped", "committed", "completed",
    ]  # fmt: skip
    assert (noise[0]["audio_start_ms"], noise[1]["audio_end_ms"], noise[3]["transcript"]) == (500, 1800, "")
    assert [event["type"].rpartition(".")[2] for event in hello] == [
        "speech_started", "speech_stopped", "committed", "delta", "completed",
    ]  # fmt: skip
    assert (hello[0]["audio_start_ms"], hello[-1]["transcript"]) == (2500, "HELLO")


def test_the_silence_that_ends_an_item_is_the_client_s(connection, service):
    detection = {"type": "server_vad", "silence_duration_ms": 400}
    session = {"type": "transcription", "audio": {"input": {"turn_detection": detection}}}
    connection.session.update(session=session)
    append(connection, pcm(noise(1.0, RATE)))
    until(connection, "input_audio_buffer.speech_started")
    assert service.engine.sessions[0].session.search.turns.end == 10  # frames


def test_cleared_audio_has_no_text(connection, english):
    data = pcm(noise(1.0, RATE, 5))
    manual(connection)
    append(connection, pcm(noise(1.5, RATE)))
    connection.input_audio_buffer.clear()
    until(connection, "input_audio_buffer.cleared")
    append(connection, data)
    connection.input_audio_buffer.commit()
    assert len(until(connection, COMPLETED)[-1].transcript) <= len(expected(english, data)) + 2


@pytest.mark.parametrize(
    ("event", "code", "problem"),
    [
        ({"type": "input_audio_buffer.append", "audio": "!!!"}, "invalid_value", "base64"),
        ({"type": "input_audio_buffer.append", "audio": base64.b64encode(b"abc").decode()}, "invalid_value", "3 bytes"),
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty", "empty"),
        ({"type": "response.create"}, "invalid_value", "response.create"),
        (
            {
                "type": "session.update",
                "session": {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 8000}}}},
            },
            "invalid_value",
            "24000",
        ),
        ({"type": "session.update", "session": {"type": "realtime"}}, "invalid_value", "transcription"),
    ],
)
def test_a_wrong_event_is_one_error_and_the_session_lives(connection, english, event, code, problem):
    connection.send({"event_id": "mine", **event})
    error = connection.recv()
    assert error.type == "error"
    assert error.error.code == code
    assert problem in error.error.message
    assert error.error.event_id == "mine"
    manual(connection)
    data = pcm(noise(1.0, RATE))
    append(connection, data)
    connection.input_audio_buffer.commit()
    assert until(connection, COMPLETED)[-1].transcript == expected(english, data)


def test_what_is_no_json_is_one_error(connection):
    connection._connection.send("{" * 5000)
    assert json.loads(connection.recv().to_json())["error"]["code"] == "invalid_json"
    manual(connection)


def test_without_the_token_nobody_comes_in(service):
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="wrong", max_retries=0)
    with client, pytest.raises(Exception, match=r"401|403"):
        client.realtime.connect(extra_query={"intent": "transcription"}).enter()
