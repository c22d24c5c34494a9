"""The service in operation: several models, logs, who may come in, and what others ask of it."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import shutil
import threading
import time
import weakref

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from samba_asr.serve import logs
from samba_asr.serve.app import create_app
from samba_asr.serve.models import load
from samba_asr.serve.settings import Settings
from tests.decode_settings import decoding
from tests.serve.front import LATENCY, expected, heard, pcm, save_config, text_of, until
from tests.support.model_folder import make_model
from tests.support.sound import noise


class TestModels:
    @pytest.fixture
    def two(self, recognizer):
        torch.set_num_threads(1)
        other = Recognizer(recognizer._loaded, decoding("search.method=beam", "search.beam=2"))
        with TestClient(
            create_app(Settings(latency_ms=LATENCY, max_sessions=2), {"one": recognizer, "two": other})
        ) as client:
            yield client

    def test_each_by_its_name(self, two, recognizer):
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
        assert 'samba_asr_sessions_total{model="two"} 1.0\n' in two.get("/metrics").text

    def test_room_is_for_all_together(self, two):
        with contextlib.ExitStack() as stack:
            for name in ("one", "two"):
                socket = stack.enter_context(two.websocket_connect("/v1/stream"))
                socket.send_json({"type": "start", "model": name})
                until(socket, "ready")
            socket = stack.enter_context(two.websocket_connect("/v1/stream"))
            socket.send_json({"type": "start", "model": "two"})
            assert until(socket, "error")[-1]["code"] == "busy"
            assert "samba_asr_sessions_rejected_total 1.0\n" in two.get("/metrics").text

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
                assert "not reloaded" in caplog.text
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
                assert (
                    text_of(until(socket, "done")) == expected(new, heard(data)).text != expected(old, heard(data)).text
                )
            save_config(folder / "config.yaml", "decode.vad=klingon")
            last = models.engine()
            models.reload()
            assert models.engine() is last
            assert "write energy or silero" in str([getattr(r, "fields", "") for r in caplog.records])
            assert 'samba_asr_sessions_total{model="m"} 2.0\n' in client.get("/metrics").text

    def test_asked_often_they_are_read_once_more(self, two, monkeypatch):
        models, begun, go = two.app.state.models, [], threading.Event()
        monkeypatch.setattr(models, "reload", lambda: (begun.append(1), go.wait(10)))
        for _ in range(60):
            models.ask_reload()
        go.set()
        for _ in range(100):
            if not models._asked:
                break
            time.sleep(0.02)
        assert len(begun) == 2
        models.ask_reload()
        for _ in range(100):
            if len(begun) == 3:
                break
            time.sleep(0.02)
        assert len(begun) == 3

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
        assert (refused["status"], refused["method"], seen["status"], seen["path"]) == (
            403,
            "WEBSOCKET",
            200,
            "/v1/models",
        )
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

    def test_bearer_in_any_case(self, start):
        client = start(tokens=("secret",))
        for given in ("bearer secret", "BEARER  secret", "Bearer secret"):
            assert client.get("/v1/models", headers={"Authorization": given}).status_code == 200
        for given in ("secret", "Basic secret", "Bearersecret", "bearer"):
            assert client.get("/v1/models", headers={"Authorization": given}).status_code == 401

    @pytest.mark.parametrize("origin", ["http://[", "http://[::1", "//", "", "http://testserver:99999999999", "\xff"])
    def test_an_origin_that_is_none(self, start, origin, caplog):
        caplog.set_level("INFO")
        client = start()
        assert client.get("/v1/models", headers={"Origin": origin.encode("latin-1")}).status_code == 403
        assert [r.getMessage() for r in caplog.records if r.name.startswith("samba_asr")] == ["request"]

    def test_a_local_service_is_asked_for_by_local_names(self, start):
        client = start(local=True)
        for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "127.1.2.3", "a.localhost"):
            assert client.get("/v1/models", headers={"Host": host}).status_code == 200
        for host in ("evil.example:8000", "10.0.0.1", "127.0.0.1.evil.example", "[", "localhost@evil.example"):
            headers = {"Host": host, "Origin": f"http://{host}"}
            assert client.get("/v1/models", headers=headers).status_code == 421
            assert client.post("/v1/audio/transcriptions", headers=headers).status_code == 421

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
    assert 'samba_asr_sessions_total{model="toy"} 1.0\n' in metrics
    assert 'samba_asr_audio_seconds_total{model="toy"} 1.0\n' in metrics
    schema = client.get("/openapi.json").json()
    assert "/v1/audio/transcriptions" in schema["paths"]
    assert json.dumps(schema)


def test_a_wrong_method_is_told_the_right_one(start):
    client = start()
    for path, allowed in (
        ("/v1/audio/transcriptions", "POST"),
        ("/v1/models", "GET"),
        ("/v1/transcribe/stream", "POST"),
    ):
        answer = client.options(path)
        assert answer.status_code == 405
        assert allowed in answer.headers["Allow"]
    assert client.get("/v1/audio/transcriptions").status_code == 405


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


def test_a_service_searches_as_it_is_told(tmp_path):
    torch.set_num_threads(1)
    folder = make_model(tmp_path / "model")
    settings = Settings(
        latency_ms=LATENCY, models={"m": folder}, decode=("decode.search.method=beam", "decode.search.beam=3")
    )
    assert load(settings)["m"].decode.search.beam == 3
    with pytest.raises(UserError, match=r"model m: --set train\.epochs=3: only decode"):
        load(dataclasses.replace(settings, decode=("train.epochs=3",)))
