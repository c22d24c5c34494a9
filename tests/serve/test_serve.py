"""The service, through its front door: its transcripts are those of `transcribe`, and who should not come in does not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import shutil
import threading
import time
import weakref

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from samba_asr import config as configs
from samba_asr.config import DecodeConfig
from samba_asr.recognizer import Recognizer
from samba_asr.serve import logs
from samba_asr.serve.app import create_app
from samba_asr.serve.settings import Settings
from samba_asr.serve.stream import Outbox
from tests.commands.test_decode import make_model
from tests.test_recognizer import noise, recognizer  # noqa: F401

LATENCY = 320.0


@pytest.fixture
def start(recognizer):  # noqa: F811
    torch.set_num_threads(1)
    clients = []

    def start(**changes) -> TestClient:
        settings = Settings(**{"latency_ms": LATENCY, "grace_seconds": 0.2, **changes})
        client = TestClient(create_app(settings, {"toy": recognizer}))
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def save_config(path, *overrides) -> None:
    configs.save(configs.load([path], ["decode.method=beam", *overrides]), path)


def pcm(samples: np.ndarray) -> bytes:
    return (samples * 32768).clip(-32768, 32767).astype("<i2").tobytes()


def heard(data: bytes) -> np.ndarray:
    """What the service makes of it."""
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768


def expected(recognizer, samples, rate=16000):  # noqa: F811
    stream = recognizer.stream(rate, latency_ms=LATENCY)
    stream.accept(samples)
    return stream.finish()


def until(socket, kind: str) -> list[dict]:
    """Messages up to the first of this type."""
    found = []
    while not found or found[-1]["type"] != kind:
        found.append(socket.receive_json())
    return found


def text_of(messages) -> str:
    return " ".join(m["text"] for m in messages if m["type"] == "final")


class TestStream:
    @pytest.mark.parametrize(("rate", "size"), [(16000, 3200), (8000, 999), (48000, 70001)])
    def test_a_session_reads_what_transcribe_reads(self, start, recognizer, rate, size):  # noqa: F811
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

    def test_no_start_is_needed_and_floats_will_do(self, start, recognizer):  # noqa: F811
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

    def test_many_at_once(self, start, recognizer):  # noqa: F811
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

    @pytest.mark.parametrize(
        ("message", "told"),
        [
            ("rubbish", "not JSON"),
            ("[" * 100_000, "not JSON"),
            ('{"type": "jump"}', "'jump'"),
            ('{"type": "start", "sample_rate": 7}', "sample_rate"),
            ('{"type": "start", "encoding": "mp3"}', "encoding"),
            ('{"type": "start", "latency_ms": 50}', "multiple of 40 ms"),
            ('{"type": "start", "colour": 1}', "colour"),
            ('{"type": "start", "hotwords": {"A": 1}}', "decode.method=beam"),
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

    def test_audio_that_is_not_finite(self, start):
        with start().websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "start", "encoding": "pcm_f32le"})
            socket.send_bytes(np.array([0, np.nan], "<f4").tobytes())
            assert "not a finite number" in until(socket, "error")[-1]["message"]

    def test_half_a_sample_waits_for_its_other_half(self, start, recognizer):  # noqa: F811
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
    def test_a_chunked_body(self, start, recognizer):  # noqa: F811
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
        assert "at most 1 s" in error["message"]
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "start"})
            until(socket, "ready")
            full = client.post("/v1/transcribe/stream", content=b"")
            assert (full.status_code, full.headers["Retry-After"]) == (503, "5")


    def test_what_was_heard_before_the_limit_is_told(self, start, recognizer):  # noqa: F811
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
                out._put({"type": kind, "n": n})
            return [(m["type"], m["n"]) for m in [await out.get() for _ in range(len(out._messages))]]

        given = [("partial", 1), ("lag", 1), ("partial", 2), ("lag", 2), ("quiet", 1), ("final", 1), ("partial", 3), ("lag", 3)]
        expected = [("partial", 2), ("lag", 2), ("quiet", 1), ("final", 1), ("partial", 3), ("lag", 3)]
        assert asyncio.run(read(*given)) == expected


class TestVosk:
    @pytest.mark.parametrize("path", ["/", "/vosk"])
    def test_one_reply_a_message(self, start, recognizer, path):  # noqa: F811
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
        assert " ".join([*texts, last["text"]]).strip() == one.text
        assert last["result"][-1]["word"] == one.words[-1].text
        assert {"conf", "start", "end", "word"} == set(last["result"][0])

    def test_a_session_is_bounded_here_too(self, start):
        with start(max_session_seconds=1.0).websocket_connect("/vosk") as socket:
            socket.send_bytes(pcm(noise(1.5)))
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
            assert closed.value.code == 1008

    @pytest.mark.parametrize("message", ["rubbish", "[]", '{"config": {"sample_rate": 1}}', '{"config": 3}'])
    def test_bad_messages(self, start, message):
        with start().websocket_connect("/vosk") as socket:
            socket.send_text(message)
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_json()
            assert closed.value.code == 1008


class TestFiles:
    def wav(self, samples: np.ndarray) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, samples, 16000, format="WAV", subtype="FLOAT")
        return file.getvalue()

    def post(self, client, data: bytes, **form):
        return client.post("/v1/audio/transcriptions", files={"file": ("a b.wav", data)}, data=form)

    def test_every_format(self, start, recognizer):  # noqa: F811
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

    def test_events(self, start, recognizer):  # noqa: F811
        client, data = start(), self.wav(np.concatenate([noise(1.0), noise(30.0, seed=1)]))
        answer = self.post(client, data, stream="true")
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
        text = recognizer.transcribe(data).text
        assert "".join(e["delta"] for e in events[:-1]) == events[-1]["text"] == text
        assert len(events) > 2
        bad = self.post(client, b"rubbish", stream="true").text
        assert json.loads(bad.removeprefix("data: "))["type"] == "error"

    def test_what_is_no_audio(self, start):
        client = start()
        for data in (b"rubbish", b"", self.wav(noise(1.0))[:30]):
            answer = self.post(client, data)
            assert answer.status_code == 400
            assert answer.json()["detail"]
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
        assert "more than 60 s" in answer.json()["detail"]


class TestModels:
    @pytest.fixture
    def two(self, recognizer):  # noqa: F811
        torch.set_num_threads(1)
        other = Recognizer(recognizer._loaded, DecodeConfig(method="beam", beam=2))
        with TestClient(create_app(Settings(latency_ms=LATENCY, max_sessions=2), {"one": recognizer, "two": other})) as client:
            yield client

    def test_each_by_its_name(self, two, recognizer):  # noqa: F811
        assert [m["id"] for m in two.get("/v1/models").json()["data"]] == ["one", "two"]
        engines = two.app.state.models
        for name in ("", "one", "two"):
            with two.websocket_connect("/v1/stream") as socket:
                socket.send_json({"type": "start", "model": name})
                assert until(socket, "ready")[-1]["model"] == (name or "one")
                busy = {n: len(engines.engine(n).sessions) for n in engines.names}
                assert busy == {"one": int(name != "two"), "two": int(name == "two")}
        with two.websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "start", "model": "three"})
            assert "this service has one, two" in until(socket, "error")[-1]["message"]
        assert 'samba_asr_sessions_total{model="two"} 1\n' in two.get("/metrics").text

    def test_room_is_for_all_together(self, two):
        with contextlib.ExitStack() as stack:
            for name in ("one", "two"):
                socket = stack.enter_context(two.websocket_connect("/v1/stream"))
                socket.send_json({"type": "start", "model": name})
                until(socket, "ready")
            socket = stack.enter_context(two.websocket_connect("/v1/stream"))
            socket.send_json({"type": "start", "model": "two"})
            assert until(socket, "error")[-1]["code"] == "busy"
            assert "samba_asr_sessions_rejected_total 1\n" in two.get("/metrics").text

    def test_read_anew_while_sessions_go_on(self, tmp_path, caplog):
        torch.set_num_threads(1)
        folder = make_model(tmp_path / "model")
        settings = Settings(latency_ms=LATENCY, models={"m": folder}, grace_seconds=0.2)
        old = Recognizer.load(folder, device="cpu")
        data = pcm(noise(2.0))
        with TestClient(create_app(settings)) as client:
            models = client.app.state.models
            first = models.engine()
            with client.websocket_connect("/v1/stream") as socket:
                socket.send_bytes(data[: len(data) // 2])
                until(socket, "ready")
                shutil.rmtree(folder)
                models.reload()  # nothing to read: the old one stays
                assert models.engine() is first
                assert "not read anew" in caplog.text
                make_model(folder, seed=1)
                models.reload()
                assert models.engine() is not first
                socket.send_bytes(data[len(data) // 2 :])
                socket.send_json({"type": "stop"})
                assert text_of(until(socket, "done")) == expected(old, heard(data)).text
            first._thread.join(timeout=30)
            assert not first._thread.is_alive()
            new = Recognizer.load(folder, device="cpu")
            with client.websocket_connect("/v1/stream") as socket:
                socket.send_bytes(data)
                socket.send_json({"type": "stop"})
                assert text_of(until(socket, "done")) == expected(new, heard(data)).text != expected(old, heard(data)).text
            save_config(folder / "config.yaml", "decode.vad=energy")  # a service cannot
            last = models.engine()
            models.reload()
            assert models.engine() is last
            assert "a service hears everything" in str([getattr(r, "fields", "") for r in caplog.records])
            assert 'samba_asr_sessions_total{model="m"} 2\n' in client.get("/metrics").text


    def test_a_model_that_was_read_anew_goes_even_if_somebody_was_speaking(self, tmp_path):
        torch.set_num_threads(1)
        settings = Settings(latency_ms=LATENCY, models={"m": make_model(tmp_path / "model")}, grace_seconds=0.2)
        loaded = {"m": Recognizer.load(tmp_path / "model", device="cpu")}
        old = weakref.ref(loaded["m"])
        app = create_app(settings, loaded)
        del loaded
        with TestClient(app) as client:
            with client.websocket_connect("/v1/stream") as socket:
                socket.send_json({"type": "start"})
                until(socket, "ready")
                app.state.models.reload()
            for _ in range(100):
                app.state.models.engines()
                if old() is None:
                    break
                time.sleep(0.05)
                gc.collect()
            assert old() is None


class TestLog:
    def test_it_tells_what_happened_but_not_what_was_said(self, start, caplog):
        caplog.set_level("INFO")
        client = start(tokens=("secret",))
        with client.websocket_connect("/v1/stream?token=secret") as socket:
            socket.send_bytes(pcm(noise(1.0)))
            socket.send_json({"type": "stop"})
            text = text_of(until(socket, "done"))
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/stream?token=wrong"):
            pass
        client.get("/v1/models?token=secret")
        lines = [json.loads(logs.Json().format(r)) for r in caplog.records if r.name.startswith("samba_asr")]
        over = next(line for line in lines if line["event"] == "session over")
        assert (over["outcome"], over["audio_seconds"], over["kind"], over["model"]) == ("done", 1.0, "stream", "toy")
        refused, seen = (line for line in lines if line["event"] == "request")
        assert (refused["status"], refused["method"], seen["status"], seen["path"]) == (403, "WEBSOCKET", 200, "/v1/models")
        written = "".join(logs.Text().format(r) for r in caplog.records if r.name.startswith("samba_asr"))
        assert text
        for private in ("secret", "wrong", text):
            assert private not in written + json.dumps(lines)

    def test_a_path_cannot_begin_a_line(self, start, caplog):
        caplog.set_level("INFO")
        start().get("/x%0aINFO%20forged")
        (record,) = [r for r in caplog.records if r.getMessage() == "request"]
        assert "\n" not in logs.Text().format(record)
        assert "\n" not in logs.Json().format(record)


class TestDoor:
    def test_tokens(self, start):
        client = start(tokens=("secret", "other"))
        assert client.get("/healthz").json() == {"status": "ok"}
        for path in ("/v1/models", "/metrics", "/docs"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer nonsense"}).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.post("/v1/audio/transcriptions", files={"file": ("a", b"x")}).status_code == 401
        for path in ("/v1/stream", "/v1/stream?token=wrong"):
            with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(path):
                pass
            assert refused.value.code == 1008
        for path, headers in (("/v1/stream?token=other", {}), ("/v1/stream", {"Authorization": "Bearer secret"})):
            with client.websocket_connect(path, headers=headers) as socket:
                socket.send_json({"type": "start"})
                assert socket.receive_json()["type"] == "ready"

    def test_pages_of_other_sites(self, start):
        client = start(origins=("https://good.example",))
        assert client.get("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/stream", headers={"Origin": "null"}):
            pass
        for origin in ("https://good.example", "http://testserver"):
            with client.websocket_connect("/v1/stream", headers={"Origin": origin}) as socket:
                socket.send_json({"type": "start"})
                assert socket.receive_json()["type"] == "ready"


def test_what_others_ask(start):
    client = start()
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/v1/models").json()["data"][0]["id"] == "toy"
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(pcm(noise(1.0)))
        socket.send_json({"type": "stop"})
        until(socket, "done")
    metrics = client.get("/metrics").text
    assert 'samba_asr_sessions_total{model="toy"} 1\n' in metrics
    assert 'samba_asr_audio_seconds_total{model="toy"} 1.0\n' in metrics
    schema = client.get("/openapi.json").json()
    assert "/v1/audio/transcriptions" in schema["paths"]
    assert json.dumps(schema)


def test_the_page_needs_no_other_site(start):
    client = start(tokens=("secret",))
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in ("page.js", "page.css", "capture.js"):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        assert "http://" not in answer.text.replace('"http"', "")
        assert "https://" not in answer.text
    assert client.get("/nothing.js").status_code == 401
    assert client.get("/..%2f..%2fpyproject.toml", headers={"Authorization": "Bearer secret"}).status_code == 404
