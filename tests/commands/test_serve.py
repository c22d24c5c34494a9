"""`samba-asr serve` as a process: what it refuses to do, and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from samba_asr.commands import serve
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from tests.support.model_folder import make_model
from tests.support.sound import noise


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("serve") / "model")


def test_an_open_door_wants_to_be_asked_for(model, monkeypatch):
    monkeypatch.delenv("SAMBA_ASR_TOKENS", raising=False)
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    args = parser.parse_args(["serve", "--model", str(model), "--host", "0.0.0.0"])
    with pytest.raises(UserError, match="set SAMBA_ASR_TOKENS, or give --open"):
        args.run(args)


CHUNK = noise(0.1, seed=1)


def talk(live) -> None:
    """Without heed to what it is told, as a microphone does."""
    with contextlib.suppress(ConnectionClosed):
        for _ in range(1000):
            live.send(CHUNK.astype("<f4").tobytes())
            time.sleep(0.02)


def ready(process) -> dict:
    """Return the event in a JSON log that says where it listens; on a machine's first run, compiling the search comes before."""
    return next(event for event in map(json.loads, process.stderr) if event["event"] == "ready")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("talking", [False, True])
def test_told_to_end_it_says_first_what_it_owes(model, talking):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "samba_asr.cli",
        "serve",
        "--model",
        str(model),
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.1)
        samples = noise(2.0)
        with connect(f"ws://127.0.0.1:{port}/v1/stream", compression=None) as live:
            live.send(json.dumps({"type": "start", "encoding": "pcm_f32le"}))
            live.send(samples.astype("<f4").tobytes())
            assert json.loads(live.recv(timeout=30))["type"] == "ready"
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            if talking:
                thread = threading.Thread(target=talk, args=(live,))
                thread.start()
            messages = [json.loads(text) for text in live]
        assert messages[-1]["type"] == "done"
        if talking:
            thread.join()
            samples = np.concatenate([samples, np.tile(CHUNK, 1000)])
        stream = Recognizer.load(model, device="cpu").stream(latency_ms=640)
        stream.accept(samples[: round(16000 * messages[-1]["seconds"])])
        assert messages[-1]["seconds"] >= 2.0
        assert " ".join(m["text"] for m in messages if m["type"] == "final") == stream.finish().text
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_its_log_tells_where_it_listens_and_keeps_tokens_to_itself(model, tmp_path):
    command = [
        sys.executable,
        "-m",
        "samba_asr.cli",
        "serve",
        "--model",
        f"m={model}",
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "SAMBA_ASR_TOKENS": "secret"}
    process = subprocess.Popen([*command, "--log", "json"], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        first = ready(process)
        assert (first["event"], first["host"], first["models"]) == ("ready", "127.0.0.1", ["m"])
        assert first["url"] == f"http://127.0.0.1:{first['port']}"
        with connect(f"ws://127.0.0.1:{first['port']}/v1/stream?token=secret", compression=None) as live:
            live.send(json.dumps({"type": "stop"}))
            assert json.loads(live.recv(timeout=30))["type"] == "done"
        address = f"http://127.0.0.1:{first['port']}/v1/transcribe/stream"
        with pytest.raises(urllib.error.HTTPError, match="401"):  # not a connection that is reset while it writes
            urllib.request.urlopen(address, data=bytes(8 << 20), timeout=30)
        process.send_signal(signal.SIGHUP)
        assert json.loads(next(line for line in process.stderr if "reloaded" in line))["model"] == "m"
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[1]
        assert "secret" not in rest
        assert all(json.loads(line)["level"] == "INFO" for line in rest.splitlines())
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("models", "found"),
    [(["digits"], {"digits": "digits"}), (["a/b", "c=d/e"], {"b": "a/b", "c": "d/e"}), ([], {"english": "english"})],
)
def test_names_of_models(models, found):
    assert {name: str(folder) for name, folder in serve.named(models).items()} == found


@pytest.mark.parametrize(
    ("models", "message"), [(["a", "x/a"], "there is a model a already"), (["a b=c"], "letters, digits")]
)
def test_names_that_are_none(models, message):
    with pytest.raises(UserError, match=message):
        serve.named(models)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_it_ends_after_any_number_of_reloads(model):
    command = [
        sys.executable,
        "-m",
        "samba_asr.cli",
        "serve",
        "--model",
        f"m={model}",
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen([*command, "--log", "json"], stderr=subprocess.PIPE, text=True)
    try:
        first = ready(process)
        with connect(f"ws://127.0.0.1:{first['port']}/v1/stream", compression=None) as live:
            live.send(json.dumps({"type": "start"}))
            assert json.loads(live.recv(timeout=30))["type"] == "ready"
            for _ in range(60):
                process.send_signal(signal.SIGHUP)
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert json.loads(live.recv(timeout=30))["type"] == "done"
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)
        assert sum("model reloaded" in line for line in process.stderr) < 10
    finally:
        process.kill()


def test_a_local_service_knows_its_names_alone(model):
    command = [
        sys.executable,
        "-m",
        "samba_asr.cli",
        "serve",
        "--model",
        f"m={model}",
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen([*command, "--log", "json"], stderr=subprocess.PIPE, text=True)
    try:
        address = f"http://127.0.0.1:{ready(process)['port']}/v1/models"
        assert urllib.request.urlopen(address, timeout=30).status == 200
        with pytest.raises(urllib.error.HTTPError, match="421"):
            urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}), timeout=30)
    finally:
        process.kill()
