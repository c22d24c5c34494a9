"""The choice of a runtime: by name, by what samba-asr export has written, and by the device."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from samba_asr.cli import main
from samba_asr.config import RuntimeConfig
from samba_asr.errors import UserError
from samba_asr.models.folder import load_model, save_model
from samba_asr.recognizer import Recognizer
from samba_asr.runtime.choose import build, cached_graphs, choose, runtimes, weights_digest
from tests.support.sound import noise

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(recognizer, tmp_path_factory):
    """A model folder, and graphs of it in the cache."""
    path = tmp_path_factory.mktemp("model")
    save_model(path, recognizer.model, recognizer.config, recognizer.tokenizer)
    return path


@pytest.fixture(scope="module")
def cache(folder, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("SAMBA_ASR_CACHE", str(tmp_path_factory.mktemp("cache")))
    assert choose(load_model(folder), RuntimeConfig()) == ("torch", "samba-asr export has written no graphs")
    assert main(["export", "--model", str(folder)]) == 0
    yield cached_graphs(weights_digest(folder) or "")
    patch.undo()


def test_auto_finds_the_graphs_of_the_model(folder, cache):
    name, why = choose(load_model(folder), RuntimeConfig())
    assert name == "onnx"
    assert str(cache) in why


def test_auto_runs_torch_for_other_weights_and_without_onnxruntime(folder, cache, recognizer, tmp_path, monkeypatch):
    changed = replace(recognizer.config.model, dropout=0.0)
    save_model(
        tmp_path, type(recognizer.model)(changed), replace(recognizer.config, model=changed), recognizer.tokenizer
    )
    assert choose(load_model(tmp_path), RuntimeConfig()).name == "torch"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    name, why = choose(load_model(folder), RuntimeConfig())
    assert name == "torch"
    assert "onnxruntime is missing" in why


def test_auto_runs_torch_behind_a_gate_for_graphs_cannot_let_time_pass(folder, cache):
    assert choose(load_model(folder), RuntimeConfig(), gaps=True).name == "torch"
    assert choose(load_model(folder), RuntimeConfig(backend="onnx"), gaps=True).name == "onnx"
    settings = ["decode.vad=energy"]
    assert Recognizer.load(folder, settings=settings).runtime.takes_gaps


def test_a_model_without_a_folder_runs_in_torch(recognizer, cache):
    assert choose(recognizer._loaded, RuntimeConfig()).name == "torch"


def test_damaged_graphs_are_left_out_by_auto_and_refused_by_name(folder, cache, caplog):
    path = cache / "whole.onnx"
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    try:
        assert build(load_model(folder), RuntimeConfig()).__class__.__name__ == "TorchRuntime"
        assert "damaged" in caplog.text
        with pytest.raises(UserError, match="damaged"):
            build(load_model(folder), RuntimeConfig(backend="onnx"))
    finally:
        path.write_bytes(before)


def test_graphs_of_another_model_are_refused(folder, cache, recognizer, tmp_path):
    save_model(tmp_path, type(recognizer.model)(recognizer.config.model), recognizer.config, recognizer.tokenizer)
    with pytest.raises(UserError, match="other weights"):
        build(load_model(tmp_path), RuntimeConfig(graphs=str(cache)))


def test_onnx_without_graphs_says_how_to_write_them(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SAMBA_ASR_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="samba-asr export --model"):
        build(load_model(folder), RuntimeConfig(backend="onnx"))


def test_an_unknown_runtime_is_refused(folder):
    with pytest.raises(UserError, match=r"unknown runtime 'tensorrt'.*onnx, torch"):
        choose(load_model(folder), RuntimeConfig(backend="tensorrt"))
    assert sorted(runtimes) == ["onnx", "torch"]


@pytest.mark.parametrize("latency_ms", [None, 640, 160])
def test_files_and_streams_have_the_same_words_with_graphs(folder, cache, latency_ms):
    samples = noise(3.0)
    plain = Recognizer.load(folder, settings=["decode.runtime.backend=torch", "decode.runtime.overlap=0.5"])
    fast = Recognizer.load(folder, settings=["decode.runtime.backend=onnx", "decode.runtime.overlap=0.5"])
    expected = plain.recognize(samples, latency_ms=latency_ms)
    assert expected.words
    assert fast.recognize(samples, latency_ms=latency_ms) == expected
    stream = fast.stream(latency_ms=latency_ms)
    for piece in np.array_split(samples, 13):
        stream.accept(piece)
    assert stream.finish() == expected


def test_in_float64_runs_torch(folder, cache):
    fast = Recognizer.load(folder, settings=["decode.runtime.backend=onnx"])
    assert str(fast.in_float64().runtime.dtype) == "torch.float64"


def test_8_bit_graphs_are_never_chosen_by_themselves(folder, capsys):
    assert main(["export", "--model", str(folder), "--int8"]) == 1
    assert "--int8 needs --out" in capsys.readouterr().err
