"""The Wyoming protocol, by the package's own client, and by clients that are not."""

from __future__ import annotations

import asyncio
import copy
import socket

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("wyoming")

from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping

from samba_asr.commands import serve
from samba_asr.errors import UserError
from samba_asr.serve.wyoming import listening
from tests.serve.front import LATENCY, heard, pcm
from tests.support.service import eventually, read_all, serving
from tests.support.sound import noise

SECONDS = 20.0
SOUND = pcm(noise(2.0))


@pytest.fixture(scope="module")
def english(recognizer):
    """The toy recognizer, as if its few letters were all of English."""
    one = copy.copy(recognizer)
    one.__dict__["_writes_english"] = True
    return one


@pytest.fixture(scope="module")
def service(english):
    with serving(english, wyoming=True, latency_ms=LATENCY, max_message_bytes=100_000) as service:
        yield service


def expected(recognizer, data, rate=16000):
    return recognizer.transcribe(heard(data), rate=rate, latency_ms=LATENCY, text="written", ahead=0).readable


def speech(data=SOUND, rate=16000, size=3200, **more):
    form = {"rate": rate, "width": 2, "channels": 1, **more}
    chunks = [AudioChunk(audio=data[at : at + size], **form) for at in range(0, len(data), size)]
    return [AudioStart(**form), *chunks, AudioStop()]


def talk(service, *messages, last="transcript-stop"):
    """What the service answers, up to the event `last`, or to the end of the connection."""

    async def run():
        found = []
        async with AsyncTcpClient("127.0.0.1", service.wyoming.getsockname()[1], read_timeout=SECONDS) as client:
            for message in messages:
                await client.write_event(message if isinstance(message, Event) else message.event())
            while (event := await client.read_event()) is not None:
                found.append(event)
                if event.type == last:
                    return found
        return found

    return asyncio.run(run())


def text_of(events):
    (transcript,) = [e for e in events if e.type == "transcript"]
    return transcript.data["text"]


def test_the_service_says_what_it_can(service):
    (event,) = talk(service, Describe(), last="info")
    (program,) = Info.from_event(event).asr
    assert program.supports_transcript_streaming
    assert [(model.name, model.languages, model.installed) for model in program.models] == [("toy", ["en"], True)]


@pytest.mark.parametrize("rate", [16000, 48000])
def test_audio_gives_the_written_text_that_transcribe_gives(service, english, rate):
    data = pcm(noise(2.0, rate))
    events = talk(service, Transcribe(name="toy", language="en-GB"), *speech(data, rate))
    assert text_of(events) == expected(english, data, rate) != ""


def test_the_chunks_are_the_transcript_and_stand_between_start_and_stop(service):
    pause = bytes(2 * 16000 * 3)
    events = talk(service, *speech(SOUND + pause + pcm(noise(2.0, seed=5)), size=32_000))
    kinds = [e.type for e in events]
    assert kinds[0] == "transcript-start"
    assert kinds[-2:] == ["transcript", "transcript-stop"]
    assert set(kinds[1:-2]) == {"transcript-chunk"}
    assert "".join(e.data["text"] for e in events if e.type == "transcript-chunk") == text_of(events)


def test_a_connection_transcribes_again_and_again(service, english):
    other = pcm(noise(1.0, seed=5))
    events = talk(service, *speech(), *speech(other), Ping("still there"), last="pong")
    texts = [e.data["text"] for e in events if e.type == "transcript"]
    assert texts == [expected(english, SOUND), expected(english, other)]
    assert events[-1].data["text"] == "still there"


def test_two_channels_and_wider_samples_are_mixed(service, english):
    samples = np.frombuffer(SOUND, "<i2") // 2
    stereo = np.stack([samples, samples], axis=1).astype("<i4") << 16
    mono = (samples * 2).astype("<i2").tobytes()
    assert text_of(talk(service, *speech(stereo.tobytes(), width=4, channels=2))) == expected(english, mono)


@pytest.mark.parametrize(("takes", "want"), [({"hotwords"}, ["Anne", "lamp"]), (set(), None)])
def test_names_are_hotwords_of_a_search_that_takes_them(service, monkeypatch, takes, want):
    asked = []
    recognizer = service.engine.recognizer
    monkeypatch.setattr(type(recognizer.segmenter.search), "takes", property(lambda self: takes))
    monkeypatch.setattr(type(recognizer), "hotwords", lambda self, phrases: asked.append(phrases))
    talk(service, Transcribe(transcript_names=["Anne"], transcript_terms=["lamp"]), *speech())
    assert asked == [want]


def test_events_of_other_types_are_ignored(service, english):
    events = talk(service, Event("run-pipeline", {"x": 1}), *speech())
    assert text_of(events) == expected(english, SOUND)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([Transcribe(name="other"), *speech()], "this service has toy"),
        ([Transcribe(language="de")], "language"),
        ([Transcribe(transcript_names=["x" * 300])], "transcript_names"),
        ([AudioStart(1000, 2, 1)], "rate"),
        ([AudioStart(16000, 2, 6)], "channels"),
        ([AudioStop()], "without audio-start"),
        ([AudioStart(16000, 2, 1), AudioStart(16000, 2, 1)], "before audio-stop"),
        ([AudioStart(16000, 2, 1), AudioChunk(16000, 2, 1, b"abc")], "3 bytes"),
        ([AudioStart(16000, 2, 1), AudioChunk(8000, 2, 1, b"abcd")], "those of audio-start"),
        ([Event("audio-chunk", {}, b"abcd")], "rate"),
        ([Event("audio-chunk", {"rate": 16000, "width": 2, "channels": 1}, bytes(200_000))], "at most 100000"),
    ],
)
def test_a_wrong_event_is_one_error_and_the_end_of_the_connection(service, messages, problem):
    events = talk(service, *messages, last="none")
    assert [e.type for e in events].count("error") == 1
    assert events[-1].data["code"] == "bad_request"
    assert problem in events[-1].data["text"]
    eventually(lambda: not service.engine.sessions)


def test_audio_from_before_an_error_gives_its_transcript(service, english):
    events = talk(service, *speech()[:-1], AudioStart(16000, 2, 1), last="none")
    assert [e.type for e in events[-3:]] == ["transcript", "transcript-stop", "error"]
    assert text_of(events) == expected(english, SOUND)


def sent(service, data: bytes) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", service.wyoming.getsockname()[1]), timeout=10)
    found.sendall(data)
    return found


HEAD = b'{"type": "audio-start", "data": {"rate": 16000, "width": 2, "channels": 1}}\n'


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"null\n",
        b'{"type": 3}\n',
        b'{"type": "ping", "data": []}\n',
        b'{"type": "ping", "data_length": -5}\n',
        b'{"type": "audio-chunk", "payload_length": 1000000000000}\n',
        b'{"type": "ping", "data_length": 2}\n[]',
        b'{"type": "ping", "data_length": 4}\n{"a"',
        b"[" * 60_000 + b"\n",
        b"x" * 200_000,
        HEAD + b"[" * 1000 + b"\n",
    ],
)
def test_what_is_no_event_is_one_error(service, data):
    answer = read_all(sent(service, data))
    assert answer.count(b'{"type": "error"') == 1
    eventually(lambda: not service.engine.sessions)


def test_an_event_that_ends_early_ends_the_connection(service):
    connection = sent(service, HEAD + b'{"type": "audio-chunk", "payload_length": 100}\nabc')
    connection.shutdown(socket.SHUT_WR)
    read_all(connection)
    eventually(lambda: not service.engine.sessions)


class TestBounds:
    def test_sessions_are_those_of_the_service(self, recognizer):
        with serving(recognizer, wyoming=True, max_sessions=1) as service:
            first = sent(service, HEAD)
            eventually(lambda: service.engine.sessions)
            assert talk(service, *speech())[-1].data["code"] == "busy"
            first.close()
            eventually(lambda: not service.engine.sessions)
            assert talk(service, *speech())[-1].type == "transcript-stop"

    def test_a_session_has_a_longest_time_and_gives_what_came_before(self, recognizer):
        with serving(recognizer, wyoming=True, max_session_seconds=1.0) as service:
            events = talk(service, *speech(), last="none")
            assert [e.type for e in events[-3:]] == ["transcript", "transcript-stop", "error"]
            assert events[-1].data["code"] == "limit"

    @pytest.mark.parametrize("data", [b"", b'{"type"', HEAD, HEAD + b'{"type": "audio-chunk", "payload_length": 9}\n'])
    def test_who_sends_nothing_is_told_and_let_go(self, recognizer, data):
        with serving(recognizer, wyoming=True, idle_seconds=0.3) as service:
            answer = read_all(sent(service, data))
            assert answer.count(b'{"type": "error"') == answer.count(b'"code": "idle"') == 1
            eventually(lambda: not service.engine.sessions and not service.server.bounds.others)

    def test_connections_count_with_those_of_http(self, recognizer):
        with serving(recognizer, wyoming=True, max_connections=2) as service:
            held = [sent(service, HEAD) for _ in range(2)]
            eventually(lambda: service.server.bounds.others == 2)
            assert read_all(sent(service, b"")) == b""
            http = socket.create_connection(("127.0.0.1", service.port), timeout=10)
            assert read_all(http).startswith(b"HTTP/1.1 503 ")
            for one in held:
                one.close()
            eventually(lambda: not service.server.bounds.others)

    def test_the_longest_without_a_session_gives_way(self, recognizer):
        with serving(recognizer, wyoming=True, max_connections=8) as service:
            first = sent(service, b"")
            rest = [sent(service, b"") for _ in range(4)]
            assert b'"code": "idle"' in read_all(first)
            assert len(rest) == 4

    def test_who_reads_nothing_is_disconnected(self, recognizer):
        with serving(recognizer, wyoming=True, idle_seconds=0.5) as service:
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(service.wyoming.getsockname())
            connection.setblocking(False)
            with pytest.raises((BlockingIOError, ConnectionError)):
                connection.sendall(b'{"type": "describe"}\n' * 1_000_000)
            eventually(lambda: not service.server.bounds.others)
            connection.close()

    def test_at_the_end_of_the_service_a_client_gets_its_transcript(self, recognizer):
        with serving(recognizer, wyoming=True, grace_seconds=5) as service:
            chunk = HEAD.replace(b"audio-start", b"audio-chunk").replace(
                b"}}", b'}, "payload_length": %d}' % len(SOUND)
            )
            connection = sent(service, HEAD + chunk + SOUND)
            eventually(lambda: service.engine.sessions and service.engine.sessions[0].session.seconds >= 2.0)
        assert b"transcript-stop" in read_all(connection)


class TestCommand:
    def parsed(self, *more):
        import argparse

        parser = argparse.ArgumentParser()
        serve.add_parser(parser.add_subparsers())
        return parser.parse_args(["serve", *more])

    @pytest.mark.parametrize("more", [("--host", "0.0.0.0"), ()])
    def test_a_door_without_tokens_wants_to_be_asked_for(self, monkeypatch, more):
        monkeypatch.setenv("SAMBA_ASR_TOKENS", "secret")
        args = self.parsed("--wyoming", "10300", *more)
        with pytest.raises(UserError, match="this protocol has no tokens: give --open"):
            args.run(args)

    def test_a_port_that_is_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(UserError, match=f"--wyoming {port}: .*another port"):
                listening("127.0.0.1", port)
