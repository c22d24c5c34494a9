"""`samba-asr serve` as a process: what it refuses to do, and how it ends."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from websockets.sync.client import connect

from samba_asr.commands import serve
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from tests.commands.test_decode import make_model
from tests.test_recognizer import noise


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("serve") / "model")


def test_an_open_door_wants_to_be_asked_for(model, monkeypatch):
    monkeypatch.delenv("SAMBA_ASR_TOKENS", raising=False)
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    args = parser.parse_args(["serve", "--model", str(model), "--host", "0.0.0.0"])
    with pytest.raises(UserError, match="set SAMBA_ASR_TOKENS, or say --open"):
        args.run(args)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_told_to_end_it_says_first_what_it_owes(model):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "samba_asr.cli", "serve", "--model", str(model), "--port", str(port), "--device", "cpu"]
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
            messages = [json.loads(text) for text in live]
        stream = Recognizer.load(model, device="cpu").stream(latency_ms=640)
        stream.accept(samples)
        assert messages[-1]["type"] == "done"
        assert " ".join(m["text"] for m in messages if m["type"] == "final") == stream.finish().text
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
