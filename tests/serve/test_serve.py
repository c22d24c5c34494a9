"""The service, through its front door: its transcripts are those of `transcribe`, and who should not come in does not."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from starlette.websockets import WebSocketDisconnect

from samba_asr.config import load
from samba_asr.models.folder import LoadedModel
from samba_asr.recognizer import Recognizer
from samba_asr.serve.stream import Outbox
from samba_asr.session import Final
from tests.serve.front import expected, heard, pcm, text_of, until
from tests.support.lm import equally_likely, short_words
from tests.support.sound import noise


class TestStream:
    @pytest.mark.parametrize(("rate", "size"), [(16000, 3200), (8000, 999), (48000, 70001)])
    def test_a_session_reads_what_transcribe_reads(self, start, recognizer, rate, size):
        data = pcm(noise(2.5, rate))
        with start().websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "start", "sample_rate": rate})
            for at in range(0, len(data), size):
                socket.send_bytes(data[at : at + size])
            socket.send_json({"type": "stop"})
            messages = until(socket, "done")
        one = expected(recognizer, heard(data), rate)
        assert messages[0]["type"] == "ready"
        assert messages[0]["sample_rate"] == rate
        assert text_of(messages) == one.text != ""
        words = [w for m in messages if m["type"] == "final" for w in m["words"]]
        assert [(w["word"], w["start"], w["end"]) for w in words] == [(w.text, w.start, w.end) for w in one.words]
        assert messages[-1]["seconds"] == pytest.approx(2.5)

    def test_no_start_is_needed_and_floats_will_do(self, start, recognizer):
        client, samples = start(), noise(1.5)
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_bytes(pcm(samples))
            socket.send_json({"type": "stop"})
            assert text_of(until(socket, "done")) == expected(recognizer, heard(pcm(samples))).text
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "start", "encoding": "pcm_f32le", "words": False})
            socket.send_bytes(samples.astype("<f4").tobytes())
            socket.send_json({"type": "stop"})
            messages = until(socket, "done")
        assert text_of(messages) == expected(recognizer, samples).text
        assert all("words" not in m for m in messages)

    def test_many_at_once(self, start, recognizer):
        client, texts = start(), {}

        def speak(n):
            data = pcm(noise(2.0, 16000, n))
            with client.websocket_connect("/v1/stream") as socket:
                for at in range(0, len(data), 6400):
                    socket.send_bytes(data[at : at + 6400])
                socket.send_json({"type": "stop"})
                texts[n] = text_of(until(socket, "done")), expected(recognizer, heard(data)).text

        threads = [threading.Thread(target=speak, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(texts) == 8
        assert all(found == alone for found, alone in texts.values())

    def test_words_of_too_little_confidence_are_counted(self, start, recognizer):
        loaded = LoadedModel(recognizer.model, recognizer.tokenizer, recognizer.config)
        unsure = Recognizer(loaded, load([], ["decode.endpoint.confidence=0.5"]).decode, sure=lambda evidence: 0.1)
        samples = noise(2.0)
        with start(model=unsure).websocket_connect("/v1/stream") as socket:
            socket.send_bytes(pcm(samples))
            socket.send_json({"type": "stop"})
            messages = until(socket, "done")
        words = expected(recognizer, heard(pcm(samples))).words
        assert text_of(messages) == ""
        assert sum(m["withheld"] for m in messages if m["type"] == "quiet") == len(words) > 0

    @pytest.mark.parametrize("phrases", [["A BAD", "Z\u0416", "DAB"], {"A BAD": 2.0, "Z\u0416": 1.0, "DAB": 1.5}])
    def test_hotwords_that_the_model_cannot_write_are_named_and_the_others_work(self, start, recognizer, phrases):
        loaded = LoadedModel(recognizer.model, recognizer.tokenizer, recognizer.config)
        beam = Recognizer(loaded, load([], ["decode.search.method=beam", "decode.search.beam=4"]).decode)
        with start(model=beam).websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "start", "hotwords": phrases})
            (ready,) = until(socket, "ready")
            assert list(ready["unusable"]) == ["Z\u0416"]
            socket.send_json({"type": "stop"})
            until(socket, "done")

    def test_alternatives_come_with_the_words_of_finals_on_request(self, start, recognizer, tmp_path, monkeypatch):
        monkeypatch.setattr("samba_asr.decoding.posteriors.LEAST", 0.0)  # the toy is very sure
        (tmp_path / "lm.arpa").write_text(equally_likely(short_words("ABCD", 2)))
        settings = ["decode.search.method=beam", "decode.search.beam=16", f"decode.lm={tmp_path / 'lm.arpa'}"]
        loaded = LoadedModel(recognizer.model, recognizer.tokenizer, recognizer.config)
        client, data, found = start(model=Recognizer(loaded, load([], settings).decode)), pcm(noise(2.0)), {}
        for count in (0, 1):
            with client.websocket_connect("/v1/stream") as socket:
                socket.send_json({"type": "start", "alternatives": count})
                socket.send_bytes(data)
                socket.send_json({"type": "stop"})
                messages = until(socket, "done")
            found[count] = [word for m in messages if m["type"] == "final" for word in m["words"]]
        others = [word.pop("alternatives") for word in found[1] if "alternatives" in word]
        assert found[0] == found[1]
        assert others
        assert all([set(other) for other in some] == [{"text", "confidence"}] for some in others)

    def test_flush_and_ping(self, start):
        with start().websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "ping"})
            assert socket.receive_json() == {"type": "pong"}
            socket.send_bytes(pcm(noise(1.0)))
            socket.send_json({"type": "flush", "id": "mark"})
            messages = until(socket, "flushed")
            assert messages[-1]["id"] == "mark"
            assert text_of(messages)
            socket.send_json({"type": "stop"})
            assert until(socket, "done")[-1]["seconds"] == pytest.approx(1.0)

    def test_missing_audio_takes_time_and_no_work(self, start, recognizer):
        parts = pcm(noise(1.0)), 0.5, pcm(noise(1.0, seed=1)), 3.0, pcm(noise(1.0, seed=2))
        session = recognizer.session(latency_ms=640, partials=False)
        with start().websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "start", "latency_ms": 640})
            for part in parts:
                if isinstance(part, float):
                    session.gap(part)
                    socket.send_json({"type": "gap", "seconds": part})
                else:
                    session.feed(heard(part))
                    socket.send_bytes(part)
            socket.send_json({"type": "stop"})
            messages = until(socket, "done")
        session.end()
        want = [event.segment for event in recognizer.events(session) if isinstance(event, Final)]
        finals = [m for m in messages if m["type"] == "final"]
        assert [(m["text"], m["start"], m["until"]) for m in finals] == [(s.text, s.start, s.until) for s in want]
        assert messages[-1]["seconds"] == pytest.approx(6.5)

    def test_missing_audio_counts_for_the_limit_of_a_session(self, start):
        with start(max_session_seconds=10).websocket_connect("/v1/stream") as socket:
            socket.send_bytes(pcm(noise(1.0)))
            socket.send_json({"type": "gap", "seconds": 9.5})
            messages = until(socket, "done")
        assert text_of(messages)
        assert [m["code"] for m in messages if m["type"] == "error"] == ["limit"]

    @pytest.mark.parametrize(
        ("message", "told"),
        [
            ('{"type": "gap", "seconds": -1}', "gap.seconds"),
            ('{"type": "gap", "seconds": NaN}', "gap.seconds"),
            ('{"type": "gap", "seconds": 3601}', "gap.seconds"),
            ("rubbish", "not JSON"),
            ("[" * 100_000, "not JSON"),
            ('{"type": "jump"}', "'jump'"),
            ('{"type": "start", "sample_rate": 7}', "sample_rate"),
            ('{"type": "start", "encoding": "mp3"}', "encoding"),
            ('{"type": "start", "latency_ms": 50}', "multiple of 40 ms"),
            ('{"type": "start", "colour": 1}', "colour"),
            ('{"type": "start", "hotwords": {"A": 1}}', "decode.search.method=beam"),
        ],
    )
    def test_a_message_that_is_none(self, start, message, told):
        with start().websocket_connect("/v1/stream") as socket:
            socket.send_text(message)
            error, _ = until(socket, "done")
            assert error["code"] == "bad_request"
            assert told in error["message"]
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
            assert closed.value.code == 1008
            assert told in closed.value.reason

    def test_audio_that_is_not_finite(self, start):
        with start().websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "start", "encoding": "pcm_f32le"})
            socket.send_bytes(np.array([0, np.nan], "<f4").tobytes())
            assert "not a finite number" in until(socket, "error")[-1]["message"]

    def test_half_a_sample_waits_for_its_other_half(self, start, recognizer):
        data = pcm(noise(1.0))
        with start().websocket_connect("/v1/stream") as socket:
            for at in range(0, len(data), 4001):
                socket.send_bytes(data[at : at + 4001])
            socket.send_bytes(b"")
            socket.send_json({"type": "stop"})
            assert text_of(until(socket, "done")) == expected(recognizer, heard(data)).text

    def test_no_room(self, start):
        client = start(max_sessions=1)
        with client.websocket_connect("/v1/stream") as one:
            one.send_json({"type": "start"})
            until(one, "ready")
            with client.websocket_connect("/v1/stream") as other:
                other.send_json({"type": "start"})
                error = until(other, "error")[-1]
                assert (error["code"], error["retry_after"]) == ("busy", 5)
                until(other, "done")
                with pytest.raises(WebSocketDisconnect) as closed:
                    other.receive_json()
                assert closed.value.code == 1013
            one.send_bytes(pcm(noise(1.0)))
            one.send_json({"type": "stop"})
            assert text_of(until(one, "done"))

    def test_who_says_nothing_and_who_says_too_much(self, start):
        with start(idle_seconds=0.3).websocket_connect("/v1/stream") as socket:
            assert until(socket, "error")[-1]["code"] == "idle"
        with start(max_session_seconds=1.0).websocket_connect("/v1/stream") as socket:
            for _ in range(3):
                socket.send_bytes(pcm(noise(0.4)))
            messages = until(socket, "done")
            assert [m["code"] for m in messages if m["type"] == "error"] == ["limit"]
            assert text_of(messages)  # what was heard before is not lost

    @pytest.mark.parametrize(
        ("bad", "code"),
        [({"bytes": pcm(noise(1.0))}, "limit"), ({"text": "{}"}, "bad_request"), (None, "idle")],
        ids=["too long", "no message", "silent"],
    )
    def test_the_error_follows_what_was_heard_before(self, start, bad, code):
        settings = {"idle_seconds": 0.5} if bad is None else {"max_session_seconds": 2.0}
        with start(**settings).websocket_connect("/v1/stream") as socket:
            socket.send_bytes(pcm(noise(1.5)))
            if bad:
                socket.send({"type": "websocket.receive", **bad})
            messages = until(socket, "done")
            assert [m["type"] for m in messages[-3:]] == ["final", "error", "done"]
            assert messages[-2]["code"] == code

    def test_a_client_that_leaves_makes_room(self, start):
        client = start(max_sessions=1)
        for _ in range(3):
            with client.websocket_connect("/v1/stream") as socket:
                socket.send_bytes(pcm(noise(0.5)))
                until(socket, "ready")
            for _ in range(100):
                if not client.app.state.models.engine().sessions:
                    break
                time.sleep(0.05)
            assert client.app.state.models.engine().sessions == []


class TestLines:
    def test_a_chunked_body(self, start, recognizer):
        data = pcm(noise(3.0, 8000))
        answer = start().post(
            "/v1/transcribe/stream?sample_rate=8000", content=(data[at : at + 5000] for at in range(0, len(data), 5000))
        )
        messages = [json.loads(line) for line in answer.text.splitlines()]
        assert messages[0]["type"] == "ready"
        assert messages[-1] == {"type": "done", "seconds": 3.0}
        assert text_of(messages) == expected(recognizer, heard(data), 8000).text != ""

    def test_what_is_refused(self, start):
        client = start(max_session_seconds=1.0, max_sessions=1)
        for query in ("sample_rate=7", "encoding=mp3", "colour=1"):
            assert client.post(f"/v1/transcribe/stream?{query}", content=b"").status_code == 422
        assert client.post("/v1/transcribe/stream?latency_ms=50", content=b"").status_code == 400
        long = client.post("/v1/transcribe/stream", content=pcm(noise(2.0)))
        messages = [json.loads(line) for line in long.text.splitlines()]
        (error,) = (m for m in messages if m["type"] == "error")
        assert (error["code"], messages[-1]["type"]) == ("limit", "done")
        assert [m["type"] for m in messages[-3:]] == ["final", "error", "done"]
        assert "at most 1 s" in error["message"]
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "start"})
            until(socket, "ready")
            full = client.post("/v1/transcribe/stream", content=b"")
            assert (full.status_code, full.headers["Retry-After"]) == (503, "5")

    def test_what_was_heard_before_the_limit_is_told(self, start, recognizer):
        data = pcm(noise(1.5))
        chunks = (data[at : at + 3200] for at in range(0, len(data), 3200))
        answer = start(max_session_seconds=1.0, max_upload_bytes=1).post("/v1/transcribe/stream", content=chunks)
        messages = [json.loads(line) for line in answer.text.splitlines()]
        assert [m["type"] for m in messages][-1] == "done"
        heard_of = messages[-1]["seconds"]
        assert heard_of == 1.0
        assert text_of(messages) == expected(recognizer, heard(data)[: round(16000 * heard_of)]).text != ""


class TestOutbox:
    def test_a_slow_reader_gets_the_newest_of_what_goes_out_of_date_and_all_of_the_rest(self):
        async def read(*messages):
            out = Outbox(asyncio.get_running_loop())
            for kind, n in messages:
                out._put({"type": kind, "n": n, **({"withheld": 0} if kind == "quiet" else {})})
            return [(m["type"], m["n"]) for m in [await out.get() for _ in range(len(out._messages))]]

        given = [
            ("partial", 1),
            ("lag", 1),
            ("partial", 2),
            ("lag", 2),
            ("quiet", 1),
            ("final", 1),
            ("partial", 3),
            ("lag", 3),
        ]
        expected = [("partial", 2), ("lag", 2), ("quiet", 1), ("final", 1), ("partial", 3), ("lag", 3)]
        assert asyncio.run(read(*given)) == expected

    def test_a_slow_reader_learns_of_all_words_that_were_withheld(self):
        async def read():
            out = Outbox(asyncio.get_running_loop())
            for at, withheld in ((1.0, 2), (2.0, 0), (3.0, 3)):
                out._put({"type": "quiet", "until": at, "withheld": withheld})
                out._put({"type": "lag", "seconds": 1.0})
            return [await out.get() for _ in range(len(out._messages))]

        quiet = next(m for m in asyncio.run(read()) if m["type"] == "quiet")
        assert quiet == {"type": "quiet", "until": 3.0, "withheld": 5}


class TestVosk:
    @pytest.mark.parametrize("path", ["/", "/vosk"])
    def test_one_reply_a_message(self, start, recognizer, path):
        data = pcm(noise(2.0, 8000))
        with start().websocket_connect(path) as socket:
            socket.send_json({"config": {"sample_rate": 8000.0, "max_alternatives": 0}})
            texts = []
            for at in range(0, len(data), 4000):
                socket.send_bytes(data[at : at + 4000])
                reply = socket.receive_json()
                assert ("partial" in reply) != ("text" in reply)
                texts += [reply["text"]] if reply.get("text") else []
            socket.send_text('{"eof" : 1}')
            last = socket.receive_json()
        one = expected(recognizer, heard(data), 8000)
        assert " ".join([*texts, last["text"]]).strip() == one.text.lower()
        assert last["result"][-1]["word"] == one.words[-1].text.lower()
        assert {"conf", "start", "end", "word"} == set(last["result"][0])

    def test_a_session_is_bounded_here_too(self, start):
        with start(max_session_seconds=1.0).websocket_connect("/vosk") as socket:
            socket.send_bytes(pcm(noise(1.5)))
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
            assert closed.value.code == 1008

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            ("rubbish", "JSON object"),
            ("[" * 100_000, "JSON object"),
            ("[]", "an object"),
            ('{"config": {"sample_rate": 1}}', "config.sample_rate: "),
            ('{"config": 3}', "config"),
        ],
    )
    def test_bad_messages(self, start, message, reason):
        with start().websocket_connect("/vosk") as socket:
            socket.send_text(message)
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
            assert closed.value.code == 1008
            assert reason in closed.value.reason

    def test_reset_gives_the_final_text_and_begins_anew(self, start, recognizer):
        first, second = pcm(noise(2.0)), pcm(noise(2.0, seed=1))
        with start().websocket_connect("/vosk") as socket:
            texts = []
            for data, end in ((first, '{"reset": 1}'), (second, '{"eof": 1}')):
                socket.send_bytes(data)
                texts.append(socket.receive_json().get("text", ""))
                socket.send_text(end)
                reply = socket.receive_json()
                texts.append(reply["text"])
        assert " ".join(filter(None, texts[:2])) == expected(recognizer, heard(first)).text.lower() != ""
        assert " ".join(filter(None, texts[2:])) == expected(recognizer, heard(second)).text.lower() != ""
        assert reply["result"][0]["start"] >= 2.0  # time goes on, as in vosk

    def test_phrases_are_hotwords(self, start, recognizer, monkeypatch):
        def config(*phrases):
            return json.dumps({"config": {"phrase_list": phrases}})

        with start().websocket_connect("/vosk") as socket:
            socket.send_text(config("dab"))
            socket.send_bytes(pcm(noise(0.5)))
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
            assert "decode.search.method=beam" in closed.value.reason  # the greedy search cannot
        asked = []
        monkeypatch.setattr(type(recognizer), "hotwords", lambda self, phrases: asked.append(phrases))
        with start().websocket_connect("/vosk") as socket:
            socket.send_text(config("dab", "bad cab", "[unk]"))
            socket.send_bytes(pcm(noise(0.5)))
            socket.receive_json()
        assert asked == [["dab", "bad cab"]]

    def test_who_is_idle_gets_the_text_and_the_reason(self, start, recognizer):
        data = pcm(noise(1.0))
        with start(idle_seconds=0.5).websocket_connect("/vosk") as socket:
            socket.send_bytes(data)
            texts = [socket.receive_json().get("text", ""), socket.receive_json()["text"]]
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
        assert " ".join(filter(None, texts)) == expected(recognizer, heard(data)).text.lower()
        assert (closed.value.code, "no audio and no command" in closed.value.reason) == (4408, True)

    def test_no_room_says_so(self, start):
        client = start(max_sessions=1)
        with client.websocket_connect("/vosk") as one, client.websocket_connect("/vosk") as other:
            one.send_bytes(pcm(noise(0.1)))
            one.receive_json()
            other.send_bytes(pcm(noise(0.1)))
            with pytest.raises(WebSocketDisconnect) as closed:
                other.receive_json()
            assert (closed.value.code, closed.value.reason[:23]) == (1013, "all 1 sessions are take")


class TestFiles:
    def wav(self, samples: np.ndarray) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, samples, 16000, format="WAV", subtype="FLOAT")
        return file.getvalue()

    def post(self, client, data: bytes, **form):
        return client.post("/v1/audio/transcriptions", files={"file": ("a b.wav", data)}, data=form)

    def test_every_format(self, start, recognizer):
        client, data = start(), self.wav(noise(2.0))
        one = recognizer.transcribe(data)
        assert self.post(client, data, model="whisper-1").json() == {"text": one.text}
        assert self.post(client, data, response_format="text").text == one.text + "\n"
        verbose = self.post(client, data, response_format="verbose_json").json()
        assert verbose["duration"] == pytest.approx(2.0)
        assert [w["word"] for w in verbose["words"]] == [w.text for w in one.words]
        assert [s["text"] for s in verbose["segments"]] == [s.text for s in one.segments]
        assert "-->" in self.post(client, data, response_format="srt").text
        assert self.post(client, data, response_format="vtt").text.startswith("WEBVTT")
        low = recognizer.transcribe(data, latency_ms=320)
        assert self.post(client, data, latency_ms=320).json() == {"text": low.text}

    def test_events(self, start, recognizer):
        client, data = start(), self.wav(np.concatenate([noise(1.0), noise(30.0, seed=1)]))
        answer = self.post(client, data, stream="true")
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
        text = recognizer.transcribe(data).text
        assert "".join(e["delta"] for e in events[:-1]) == events[-1]["text"] == text
        assert len(events) > 2
        bad = self.post(client, b"rubbish", stream="true")  # known before the first event
        assert (bad.status_code, bad.headers["content-type"]) == (400, "application/json")

    def test_what_is_no_audio(self, start):
        client = start()
        for data in (b"rubbish", b"", self.wav(noise(1.0))[:30]):
            answer = self.post(client, data)
            assert answer.status_code == 400
            assert answer.json()["error"]["message"]
        assert self.post(client, self.wav(noise(0.5)), response_format="xml").status_code == 422
        assert self.post(client, self.wav(noise(0.5)), latency_ms=50).status_code == 400
        assert client.post("/v1/audio/transcriptions").status_code == 422

    def test_files_that_are_too_large(self, start):
        big = bytes(3 << 20)
        assert self.post(start(max_upload_bytes=1 << 20), big).status_code == 413
        # A small file of much audio: FLAC of silence.
        file = io.BytesIO()
        soundfile.write(file, np.zeros(16000 * 120, np.int16), 16000, format="FLAC")
        assert len(file.getvalue()) < 20_000
        answer = self.post(start(max_file_seconds=60.0), file.getvalue())
        assert answer.status_code == 400
        assert "more than 60 s" in answer.json()["error"]["message"]


class TestReference:
    def test_it_names_every_message_with_its_types_and_needs_no_other_host(self, start):
        client = start()
        page = client.get("/docs").text
        assert "http://" not in page
        assert "https://" not in page
        assert "<script" not in page
        for text in ("WS /v1/stream", "unusable", "POST /v1/audio/transcriptions", "timestamp_granularities[]"):
            assert text in page
        assert "<td>integer, 4000 to 192000</td><td>16000</td>" in page
        schemas = client.get("/v1/protocol").json()
        assert set(schemas["up"]["discriminator"]["mapping"]) == {"start", "gap", "flush", "ping", "stop"}
        assert {"ready", "quiet", "done"} <= set(schemas["down"]["discriminator"]["mapping"])
        assert all(f"<h4><code>{name}</code></h4>" in page for name in schemas["down"]["discriminator"]["mapping"])
