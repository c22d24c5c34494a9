"""The written form through the service's doors: that of `transcribe`, with the spoken form beside it."""

from __future__ import annotations

import copy
import json

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from tests.serve.front import LATENCY, heard, pcm, until
from tests.support.sound import encoded, noise


@pytest.fixture
def english(recognizer):
    """The toy recognizer, as if its few letters were all of English."""
    one = copy.copy(recognizer)
    one.__dict__["_writes_english"] = True
    return one


def written(recognizer, data, **options):
    return recognizer.transcribe(heard(data), rate=16000, latency_ms=LATENCY, text="written", ahead=0, **options)


def speak(socket, data, **start):
    socket.send_json({"type": "start", **start})
    for at in range(0, len(data), 6400):
        socket.send_bytes(data[at : at + 6400])
    socket.send_json({"type": "stop"})
    return until(socket, "done")


def test_a_session_chooses_its_form(start, english):
    data = pcm(noise(3.0))
    client, one = start(model=english), written(english, data)
    with client.websocket_connect("/v1/stream") as socket:
        messages = speak(socket, data, text="written")
    finals = [m for m in messages if m["type"] == "final"]
    assert " ".join(m["text"] for m in finals) == one.readable != one.text
    assert " ".join(m["spoken"] for m in finals) == one.text
    words = [word for m in finals for word in m["words"]]
    assert words == [word.entry() for word in one.written]
    for message in (m for m in messages if m["type"] == "partial"):
        assert message["text"].startswith(message["stable"])
    with client.websocket_connect("/v1/stream") as socket:
        finals = [m for m in speak(socket, data) if m["type"] == "final"]
    assert " ".join(m["text"] for m in finals) == one.text
    assert all("spoken" not in m for m in finals)


def test_another_form_is_an_error_and_the_service_lives(start, english):
    client = start(model=english)
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_json({"type": "start", "text": "sung"})
        assert "text" in until(socket, "error")[-1]["message"]
    with client.websocket_connect("/v1/stream") as socket:
        assert until_done(socket)


def until_done(socket):
    socket.send_json({"type": "stop"})
    return until(socket, "done")


def test_vosk_speaks_lower_case(start, english):
    data = pcm(noise(2.0))
    with start(model=english).websocket_connect("/vosk") as socket:
        socket.send_bytes(data)
        socket.receive_json()
        socket.send_text('{"eof" : 1}')
        reply = socket.receive_json()
    assert reply["text"] == written(english, data).text.lower() != ""
    assert all(word["word"] == word["word"].lower() for word in reply["result"])


class TestFiles:
    def post(self, client, **fields):
        return client.post("/v1/audio/transcriptions", files={"file": ("a.wav", encoded(noise(3.0)))}, data=fields)

    def test_the_text_is_written_unless_asked_otherwise(self, start, english):
        client = start(model=english)
        one = english.transcribe(encoded(noise(3.0)), text="written")
        assert self.post(client).json() == {"text": one.readable}
        assert self.post(client, text="spoken").json() == {"text": one.text}
        both = self.post(client, response_format="verbose_json").json()
        assert both["text"] == one.readable
        assert both["spoken"]["text"] == one.text
        assert [word["word"] for word in both["words"]] == [word.text for word in one.written]

    def test_subtitles_keep_their_limits(self, start, english):
        answer = self.post(start(model=english), response_format="srt", max_line_width=12, max_lines=1)
        lines = [line for line in answer.text.split("\n") if line and "-->" not in line and not line.isdigit()]
        assert lines
        assert all(len(line) <= 12 or " " not in line for line in lines)

    @pytest.mark.parametrize(
        ("fields", "problem"),
        [
            ({"max_line_width": 0}, "max-line-width 0"),
            ({"max_cps": "nan"}, "max-cps nan"),
            ({"min_duration": 9}, "min-duration 9 is above max-duration 7"),
        ],
    )
    def test_limits_that_nothing_keeps_are_one_error(self, start, english, fields, problem):
        answer = self.post(start(model=english), response_format="srt", **fields)
        assert answer.status_code == 400
        assert problem in answer.json()["error"]["message"]

    def test_events_have_the_words_of_their_segments_if_asked(self, start, english):
        client = start(model=english)
        answer = self.post(client, response_format="verbose_json", stream=True)
        *deltas, done = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
        whole = self.post(client, response_format="verbose_json").json()
        assert [word for event in deltas for word in event["segment"]["words"]] == whole["words"]
        assert [event["segment"]["text"] for event in deltas] == [segment["text"] for segment in whole["segments"]]
        assert (done["text"], done["duration"]) == (whole["text"], whole["duration"])
        plain = self.post(client, stream=True).text
        assert "words" not in plain
        assert "duration" not in plain

    def test_hotwords_are_those_of_transcribe(self, start, english, monkeypatch):
        given, transcribe = [], type(english).transcribe

        def noted(self, *arguments, hotwords, **options):
            given.append(hotwords)
            return transcribe(self, *arguments, **options)

        monkeypatch.setattr(type(english), "transcribe", noted)
        client = start(model=english)
        assert self.post(client, hotwords="Anne Bronte :3\n\nKeats").status_code == 200
        assert self.post(client).status_code == 200
        assert given == [{"Anne Bronte": 3.0, "Keats": english.decode.hotwords.weight}, None]
        answer = self.post(client, hotwords="Keats :x")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "hotwords")
