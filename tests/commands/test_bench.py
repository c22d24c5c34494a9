"""`samba-asr bench`: each measurement in a process of its own, and what it prints."""

from __future__ import annotations

import argparse
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from samba_asr.bench import count as step_count
from samba_asr.bench import measure, peers
from samba_asr.bench.transcribe import load_audio
from samba_asr.commands import bench, bench_transcribe
from samba_asr.data.manifest import read_manifest
from samba_asr.errors import UserError
from samba_asr.metrics.wer import score
from samba_asr.models import box
from samba_asr.recognizer import Recognizer
from samba_asr.text.normalize import upper
from tests.support.model_folder import SMALL, make_model
from tests.training.toy import make_corpus


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("bench")
    make_corpus(folder, n=4)
    make_model(folder / "model", "model.decoder.layers=1")
    return folder


def call(*words) -> int:
    parser = argparse.ArgumentParser()
    bench.add_parser(parser.add_subparsers())
    args = parser.parse_args(["bench", *map(str, words)])
    return args.run(args)


def transcribe(place, *more) -> int:
    return call("transcribe", "--model", place / "model", "--device", "cpu", "--threads", 1, "--rounds", 1, *more)


def test_training_is_measured_on_synthetic_data(capsys):
    small = [x for x in SMALL if not x.startswith(("tokenizer", "model.vocab", "data"))]
    options = [*small, "train.device=cpu", "data.batch_seconds=20", "tokenizer.vocab_size=64"]
    assert call("train", "--seconds", 0.2, "--threads", 1, "--json", *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] >= 1
    assert found["hours_per_hour"] == pytest.approx(found["audio_seconds"] / found["seconds"])
    assert found["threads"] == 1
    assert found["memory"] > 50
    assert found["data"] == "synthetic"


def test_the_errors_of_the_other_process_are_told_here():
    with pytest.raises(UserError, match=r"did you mean data\.batch_seconds"):
        call("train", "data.batch_second=5")


@pytest.mark.slow
def test_transcription_is_measured_whole_and_live(place, capsys):
    settings = ["--data", place / "corpus.jsonl", "--chunk-ms", 160, "--no-peers", "--json"]
    assert (
        transcribe(place, *settings, "decode.search.method=beam", "decode.search.beam=2", "decode.search.rescore=0.5")
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    whole, live = report["rows"]
    assert whole["ratio"] == 1
    assert "p50_ms" not in whole
    assert 0 < live["p50_ms"] <= live["p95_ms"]
    for row in (whole, live):
        assert row["times_real_time"] == pytest.approx(row["audio_seconds"] / row["seconds"])
        assert row["memory"] > 50
        assert row["wer"] > 0
    assert report["utterances"] == 4


def test_the_table_says_which_peers_are_not_installed(place, capsys, monkeypatch):
    for name, peer in peers.PEERS.items():
        monkeypatch.setitem(peers.PEERS, name, peer._replace(packages={"no_such_package": "no-such-package"}))
    measured = {"times_real_time": 20.0, "audio_seconds": 1.0, "seconds": 0.05, "texts": [""], "device": "cpu"}
    measured |= {"threads": 1, "parameters": 10**6, "memory": 99.9, "gpu_memory": 0.0}
    monkeypatch.setattr(measure, "apart", lambda module, threads, question: dict(measured))
    assert transcribe(place, place / "0.wav", "--chunk-ms", 640) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[2].split() == ["x", "real", "time", "ratio", "p50", "ms", "p95", "ms", "memory", "M", "param."]
    assert out[3].startswith("samba_asr, whole utterances")
    assert out[4].startswith("samba_asr, live, 640 ms")
    for line, name in zip(out[-2:], peers.PEERS, strict=True):
        assert line == f"{name} is not installed: pip install no-such-package"


def test_another_whisper_is_measured_in_place_of_tiny_en(place, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "base.en"
    folder.mkdir()
    for name in ("config.json", "model.bin", "tokenizer.json"):
        (folder / name).write_bytes(b"weights")
    asked, measured = (
        [],
        {"times_real_time": 20.0, "audio_seconds": 1.0, "seconds": 0.05, "texts": [""], "device": "cpu"},
    )
    measured |= {"threads": 1, "parameters": 0, "memory": 99.9, "gpu_memory": 0.0}

    def apart(module, threads, question):
        asked.append(question)
        return dict(measured)

    monkeypatch.setattr(measure, "apart", apart)
    monkeypatch.setattr(peers, "missing", lambda peer: [] if "faster_whisper" in peer.packages else ["no-such-package"])
    assert transcribe(place, place / "0.wav", "--chunk-ms", 640, "--whisper", folder, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in report["rows"]][2:] == ["faster-whisper base.en"]
    assert (asked[-1]["name"], asked[-1]["folder"]) == ("faster-whisper base.en", str(folder))
    assert report["notes"][0] == f"the weights in {folder}: sha256 {hashlib.sha256(b'weights').hexdigest()}"
    heard = []
    monkeypatch.setattr(
        peers, "Whisper", lambda *settings: heard.append(settings) or SimpleNamespace(read=lambda wave: None)
    )
    peers.among(folder)["faster-whisper base.en"].load("cpu", 2)
    assert heard == [("cpu", 2, folder)]


@pytest.mark.slow
def test_a_whole_set_is_compared(place, capsys, monkeypatch):
    def other(device, threads):
        return lambda wave: "A B" if len(wave) > 8000 else ""

    toy = peers.Peer({}, other, 7, gpu=False)
    monkeypatch.setattr(peers, "PEERS", {"toy": toy})
    apart = measure.apart

    def here(module, threads, question):
        if module != "samba_asr.bench.peers":
            return apart(module, threads, question)
        return {**peers.main(**question), **measure.peak_memory()}

    monkeypatch.setattr(measure, "apart", here)
    model = ["--model", place / "model", "--data", place / "corpus.jsonl", "--device", "cpu", "--threads", 1]
    assert call("compare", *model, "--snr", 10, "--nonspeech", 0.05, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in report["rows"]] == [
        "samba_asr, whole utterances",
        "samba_asr, live, 640 ms",
        "samba_asr, live, 320 ms",
        "toy",
        "samba_asr, whole utterances, 10 dB",
        "toy, 10 dB",
    ]
    ours, toy = report["notes"]
    assert ours.startswith("samba_asr, whole utterances: words recognized in 0.05 minutes of silence ")
    assert toy.startswith("toy: words recognized in 0.05 minutes of silence 2, hum 2, clicks 2, music 2, white noise 2")
    assert report["ratio_to"] == "toy"
    assert report["utterances"] == 4
    for row in report["rows"]:
        low, high = row["interval"]
        assert low <= row["wer"] <= high
    texts = [Recognizer.load(place / "model", device="cpu").transcribe(place / f"{n}.wav").text for n in range(4)]
    references = {u.id: upper(u.text) for u in read_manifest(place / "corpus.jsonl")}
    expected = score(references, dict(zip(references, map(upper, texts), strict=True))).wer
    assert report["rows"][0]["wer"] == pytest.approx(100 * expected)


def test_noise_is_as_loud_as_was_asked_and_the_same_for_all(place):
    audio = [[str(place / f"{n}.wav"), 0.0, None] for n in range(2)]
    clean, noisy, again = (load_audio(audio, 16000, snr) for snr in (None, 10.0, 10.0))
    for x, y, z in zip(clean, noisy, again, strict=True):
        assert 10 * np.log10(np.mean(x**2) / np.mean((y - x) ** 2)) == pytest.approx(10, abs=0.01)
        assert (y == z).all()


def test_audio_is_taken_until_there_is_enough(place):
    assert len(bench_transcribe._utterances(place / "corpus.jsonl", [], 0.1)) == 1
    assert len(bench_transcribe._utterances(place / "corpus.jsonl", [], 100)) == 4
    assert len(bench_transcribe._utterances(None, [str(place / "0.wav"), str(place / "1.wav")], 100)) == 2


def test_memory_is_that_of_this_process_in_mib():
    assert 50 < measure.peak_memory()["memory"] < 100_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--seconds", 0], "--seconds 0"),
        (["train", "--threads", -1], "--threads -1"),
        (["transcribe", "--model", "no/m", "--rounds", 0], "--rounds 0"),
        (["compare", "--model", "no/m", "--nonspeech", 0], "--nonspeech 0"),
        (["transcribe", "--model", "no/m", "--data", "a.jsonl", "b.wav"], "not both"),
        (["transcribe", "--model", "no/m", "nowhere.wav"], "none of its audio can be read"),
    ],
)
def test_what_the_user_can_mend_is_a_user_error(words, message):
    with pytest.raises(UserError) as error:
        call(*words)
    assert message in str(error.value)


def test_chunks_are_whole_frames_and_a_model_is_needed(place, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="multiples of 40 ms"):
        transcribe(place, place / "0.wav", "--chunk-ms", 100)
    with pytest.raises(UserError, match="--chunk-ms 0"):
        transcribe(place, place / "0.wav", "--chunk-ms", 0)
    monkeypatch.setattr(box.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match="has no shipped model"):
        call("transcribe")


def test_the_operations_of_a_step_are_counted_without_a_gpu(capsys, monkeypatch):
    monkeypatch.setattr(measure, "apart", lambda module, threads, question: step_count.main(**question))
    small = [x for x in SMALL if not x.startswith(("tokenizer", "data"))]
    assert call("train", "--count", "--threads", 1, *small) == 0
    kernels, plain = capsys.readouterr().out.split("CTC, ")[1:]
    assert kernels.startswith("Triton kernels (")
    assert plain.startswith("torch's own operations: ")
    assert "the CPU waits" in plain
