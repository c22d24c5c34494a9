"""`samba-asr mic`, with a microphone that plays noise: what it writes is the transcript of what was heard."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import types

import numpy as np
import pytest
import torch

from samba_asr.audio import microphone
from samba_asr.commands import mic
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from tests.support.model_folder import make_model
from tests.support.sound import noise

RATE = 16000
SPEECH = noise(3.0)


class PortAudioError(Exception):
    pass


class InputStream:
    """Plays SPEECH to the callback, then silence, faster than one speaks."""

    def __init__(self, *, samplerate, blocksize, device, channels, dtype, callback):
        assert (samplerate, channels, dtype) == (RATE, 1, "float32")
        self._callback, self._size = callback, blocksize
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._play)

    def _play(self) -> None:
        audio = np.concatenate([SPEECH, np.zeros(60 * RATE, np.float32)])
        for at in range(0, len(audio), self._size):
            if self._over.is_set():
                return
            block = audio[at : at + self._size, None].copy()
            self._callback(block, len(block), None, types.SimpleNamespace(input_overflow=False))
            block[:] = np.nan  # PortAudio uses its memory again
            time.sleep(0.01)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    close = stop


def query_devices(device=None, kind=None):
    if device == "none":
        raise ValueError("no input device matching 'none'")
    return {"name": "toy", "default_samplerate": float(RATE)} if kind else "0 toy"


@pytest.fixture(autouse=True)
def sounddevice(monkeypatch):
    fake = types.SimpleNamespace(PortAudioError=PortAudioError, InputStream=InputStream, query_devices=query_devices)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("mic") / "model")


def call(*options: str) -> int:
    parser = argparse.ArgumentParser()
    mic.add_parser(parser.add_subparsers())
    args = parser.parse_args(["mic", "--device", "cpu", "--latency-ms", "320", *options])
    return args.run(args)


def text(model, seconds: float) -> str:
    stream = Recognizer.load(model, device="cpu").stream(RATE, latency_ms=320)
    stream.accept(SPEECH[: int(seconds * RATE)])
    return stream.finish().text


def test_what_is_heard_is_written(model, capsys):
    assert call("--model", str(model), "--seconds", "2") == 0
    out, err = capsys.readouterr()
    assert " ".join(out.split()) == text(model, 2.0) != ""
    assert "listening to toy" in err


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_the_sentence_and_loses_nothing(model, capsys):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert call("--model", str(model)) == 0
    assert " ".join(capsys.readouterr().out.split()).startswith(text(model, 1.0)[:20])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_by_a_service(model, capsys):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    pytest.importorskip("websockets")
    from tests.support.service import Service

    service = Service(Recognizer.load(model, device="cpu"))
    try:
        assert call("--url", service.url, "--seconds", "2") == 0
    finally:
        service.stop()
    assert " ".join(capsys.readouterr().out.split()) == text(model, 2.0)


def test_what_is_wrong_is_told(model, capsys, monkeypatch):
    with pytest.raises(UserError, match="device 'none' cannot be opened"):
        call("--model", str(model), "--microphone", "none")
    with pytest.raises(UserError, match="--seconds 0 must be positive"):
        call("--seconds", "0")
    assert call("--list") == 0
    assert "0 toy" in capsys.readouterr().out
    monkeypatch.setattr(microphone, "PATIENCE", -1.0)
    with pytest.raises(UserError, match="too slow for the model"):
        call("--model", str(model), "--seconds", "2")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(UserError, match="pip install"):
        call("--list")
