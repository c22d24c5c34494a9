"""The client, and the service behind a real socket."""

from __future__ import annotations

import argparse
import socket
import time

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from samba_asr.client import Busy, Client
from samba_asr.commands import stream
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from tests.support.service import Service, alone
from tests.support.sound import noise


@pytest.fixture
def service(recognizer):
    torch.set_num_threads(1)
    service = Service(recognizer)
    yield service
    service.stop()


def test_a_file_at_once(service, recognizer, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", noise(3.0, 22050), 22050, subtype="FLOAT")
    parser = argparse.ArgumentParser()
    stream.add_parser(parser.add_subparsers())
    args = parser.parse_args(["stream", str(tmp_path / "a.wav"), "--url", service.url, "--fast"])
    assert args.run(args) == 0
    assert capsys.readouterr().out.strip() == alone(recognizer, noise(3.0, 22050), 22050) != ""


def test_a_broken_connection_loses_and_doubles_nothing(service, recognizer):
    samples = noise(3.0)
    with Client(service.url) as client:
        client.send(samples[:16000])
        client.flush()
        assert client.text == alone(recognizer, samples[:16000])
        client.send(samples[16000:32000])
        client._socket.socket.shutdown(socket.SHUT_RDWR)
        client.send(samples[32000:])
        client.finish()
    assert client.text == f"{alone(recognizer, samples[:16000])} {alone(recognizer, samples[16000:])}"
    starts = [w["start"] for f in client.finals for w in f["words"]]
    assert starts == sorted(starts)
    assert 1.0 <= client.finals[-1]["words"][0]["start"] < 3.0
    assert client.finals[-1]["until"] == pytest.approx(3.0, abs=0.04)


def test_missing_audio_is_missing_after_a_broken_connection_too(service, recognizer):
    samples = noise(2.0)
    with Client(service.url) as client:
        client.send(samples[:16000])
        client.flush()
        client.gap(2.0)
        client.send(samples[16000:24000])
        client._socket.socket.shutdown(socket.SHUT_RDWR)
        client.send(samples[24000:])
        client.finish()
        with pytest.raises(UserError, match="a gap of -1 s"):
            client.gap(-1)
    assert client.text.startswith(alone(recognizer, samples[:16000]))
    assert client.finals[-1]["until"] == pytest.approx(4.0, abs=0.04)


def test_who_brings_nothing_has_what_was_heard_before(recognizer):
    service = Service(recognizer, idle_seconds=0.5)
    try:
        with Client(service.url) as client:
            client.send(noise(1.5))
            with pytest.raises(UserError, match="no audio and no command"):
                client._read(until="done")
            assert client.text == alone(recognizer, noise(1.5)) != ""
    finally:
        service.stop()


def test_silence_is_not_kept():
    try:
        service = Service(Recognizer.load("digits", device="cpu"))
    except UserError as error:
        pytest.skip(str(error))
    try:
        with Client(service.url) as client:
            for _ in range(12):
                client.send(np.zeros(16000, np.float32))
            client.flush()
            client.send(np.zeros(16000, np.float32))
            for _ in range(100):
                client.send(np.zeros(1600, np.float32))
                time.sleep(0.01)
            assert len(client._kept) < 8 * 16000
            assert client.finish() == ""
    finally:
        service.stop()


def test_a_service_that_comes_back(recognizer):
    first = Service(recognizer)
    with Client(first.url) as client:
        client.send(noise(0.5))
        first.stop()
        second = Service(recognizer, first.port)
        try:
            client.send(noise(0.5, seed=1))
            assert client.finish() == alone(recognizer, np.concatenate([noise(0.5), noise(0.5, seed=1)]))
        finally:
            second.stop()


def test_a_service_that_breaks_each_time(service, monkeypatch):
    def broken(*_):
        raise ConnectionError("planted")

    monkeypatch.setattr("samba_asr.serve.stream.Connection.audio", broken)
    with Client(service.url, retries=2) as client:
        client.send(noise(0.1))
        with pytest.raises(UserError, match="broke 2 times in a row"):
            client.finish()


def test_a_service_that_is_full_or_asks_for_a_token(recognizer):
    service = Service(recognizer, max_sessions=1, tokens=("secret",))
    try:
        with pytest.raises(UserError, match="a token is missing or wrong"):
            Client(service.url)
        with Client(service.url, token="secret"), pytest.raises(Busy, match="all 1 sessions are taken") as busy:
            Client(service.url, token="secret")
        assert busy.value.retry_after == 5
    finally:
        service.stop()


@pytest.mark.parametrize(
    ("url", "message"), [("http://x", "address with ws://"), ("ws://127.0.0.1:9", "no service there")]
)
def test_no_service(url, message):
    with pytest.raises(UserError, match=message):
        Client(url)


def test_what_the_service_refuses(service):
    with pytest.raises(UserError, match="multiple of 40 ms"):
        Client(service.url, latency_ms=50)


def test_hostile_sockets_harm_nobody(service, recognizer):
    for data in (
        b"",
        b"\x00" * 1000,
        b"GET /v1/stream HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", service.port)) as s:
            s.sendall(data)
    half = socket.create_connection(("127.0.0.1", service.port))  # says nothing
    with connect(f"{service.url}/v1/stream", compression=None) as giant, pytest.raises((ConnectionClosed, OSError)):
        send_for_ever(giant)
    with Client(service.url) as client:
        client.send(noise(1.0))
        assert client.finish() == alone(recognizer, noise(1.0))
    half.close()


def send_for_ever(giant) -> None:
    while True:
        giant.send(bytes(20 << 20))
        giant.recv(timeout=0.1)
