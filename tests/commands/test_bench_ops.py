"""`samba-asr bench ops`: what it measures is what it says, beside peers that compute the same."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re

import pytest
import torch

from samba_asr.bench import ops, peer_ops
from samba_asr.commands import bench, bench_ops
from samba_asr.errors import UserError
from samba_asr.nn.mixers import build_mixer
from samba_asr.ops.blocks import lay_blocks

SMALL = ("--batch", "2", "--length", "5", "--d-model", "16", "--rounds", "1", "--threads", "1", "--device", "cpu")


def call(*words) -> int:
    parser = argparse.ArgumentParser()
    bench.add_parser(parser.add_subparsers())
    args = parser.parse_args(["bench", "ops", *map(str, words)])
    return args.run(args)


def measure(op: str, backend: str = "auto", **more) -> dict:
    question = {"batch": 1, "length": 3, "d_model": 16, "dtype": "float32", "device": "cpu", "rounds": 1}
    return ops.main(op, backend, **(question | more))


def test_each_backend_is_a_row_and_the_loop_is_what_it_is_compared_with(capsys, tmp_path):
    assert call("--op", "ssd", "--backend", "naive", "chunk", *SMALL, "--json", "--plot", tmp_path / "p.svg") == 0
    report = json.loads(capsys.readouterr().out)
    naive, chunk = report["rows"]
    assert (naive["backend"], naive["ratio"]) == ("naive", 1.0)
    assert chunk["ratio"] == pytest.approx(naive["train_ms"] / chunk["train_ms"])
    for row in report["rows"]:
        assert (row["op"], row["batch"], row["length"], row["d_model"], row["threads"]) == ("ssd", 2, 5, 16, 1)
        assert min(row["forward_ms"], row["train_ms"], row["step_ms"]) > 0
    assert "<svg" in (tmp_path / "p.svg").read_text()


def test_the_table_has_a_line_for_each(capsys, monkeypatch):
    found = {"forward_ms": 1.0, "train_ms": 4.0, "step_ms": 0.5, "op_memory": 3.0, "train_floor": 0.5, "error": 1e-6}
    answers = iter([found, {"left_out": "too large"}, found, found | {"train_ms": 0.5}])
    monkeypatch.setattr("samba_asr.bench.measure.apart", lambda *_: next(answers))
    assert call("--op", "ssd", "--backend", "chunk", "naive", *SMALL[:2], "--length", 7, "--d-model", 16, 32) == 0
    lines = capsys.readouterr().out.splitlines()
    assert tuple(re.split(r"\s{2,}", lines[1])) == bench_ops.HEAD
    assert lines[2].split() == ["ssd", "naive", "2", "7", "16", "1.00", "4.00", "0.50", "3", "50.0", "1e-06", "1.0"]
    assert lines[3].split() == ["ssd", "chunk", "2", "7", "16", "too", "large"]
    assert lines[4].split() == ["ssd", "naive", "2", "7", "32", "1.00", "4.00", "0.50", "3", "50.0", "1e-06", "1.0"]
    assert lines[5].split() == ["ssd", "chunk", "2", "7", "32", "1.00", "0.50", "0.50", "3", "50.0", "1e-06", "8.0"]


@pytest.mark.parametrize("op", ops.MIXERS)
def test_mixers_are_measured_whole(op):
    found = measure(op)
    assert found["forward_ms"] > 0
    assert found["train_ms"] > 0
    assert found["step_ms"] > 0


def fast(op: str) -> str:
    """The backend of this scan that is the default on a CPU."""
    return {"para_gru": "loop", "para_lstm": "loop", "scan2d": "wave"}.get(op, "chunk")


@pytest.mark.parametrize("op", ops.SCANS)
def test_a_loop_too_long_to_keep_is_left_out(op, monkeypatch):
    monkeypatch.setattr(ops, "NAIVE_LIMIT", 10)
    assert set(measure(op, "naive")) == {"left_out"}
    assert "train_ms" in measure(op, fast(op))


@pytest.mark.parametrize("op", ops.SCANS)
def test_errors_are_those_against_the_loop_in_float64(op, monkeypatch):
    assert measure(op, "naive", dtype="float64")["gradient_error"] < 1e-6  # dt and A stay float32
    single, half = (measure(op, fast(op), dtype=dtype) for dtype in ("float32", "bfloat16"))
    for name in ("error", "gradient_error"):
        assert 1e-9 < single[name] < 1e-5 < half[name] < 0.1
    monkeypatch.setattr(ops, "NAIVE_LIMIT", 10)
    assert "gradient_error" not in measure(op, fast(op))


def test_what_a_backend_cannot_do_is_said_in_its_row():
    assert "float64" in measure("ssd", "triton", dtype="float64")["left_out"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backend", "chunky"], r"--backend chunky: .* choose from .*chunk"),
        (["--length", "0"], "--length 0: give 1 or more"),
        (["--d-model", "-1"], "--d-model -1"),
        (["--rounds", "0"], "--rounds 0"),
        (["--plot", "p.bmp"], r"p\.bmp: a plot's name must end in \.png"),
        (["--op", "hydra", "--d-model", "20"], "--d-model 20: give a multiple of 16"),
    ],
)
def test_what_cannot_be_meant_is_an_error(words, message):
    with pytest.raises(UserError, match=message):
        call("--device", "cpu", *words)


def test_the_command_knows_the_ops():
    assert bench_ops.OPS == ops.OPS


def peers(ops):
    return pytest.mark.parametrize(("op", "name"), [(op, name) for op in ops for name in peer_ops.PEERS.get(op, {})])


def device_for(name: str) -> str:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not peer_ops.runs(name, device):
        pytest.skip(f"{name} is not installed, or does not run on {device}")
    return device


@peers(ops.MIXERS)
def test_a_peers_mixer_computes_the_same_with_the_same_weights(op, name):
    device = device_for(name)
    torch.manual_seed(0)
    config = dataclasses.replace(ops.mixer_of(op), d_state=16)
    theirs = peer_ops.PEERS[op][name](64, config).to(device)
    ours = build_mixer(64, config).to(device)
    ours.mixer.load_state_dict(theirs.state_dict())
    x, lengths = torch.randn(2, 37, 64, device=device), torch.tensor([37, 37], device=device)
    want = ours(x, lengths, lay_blocks(lengths, 37, 37))[0]
    torch.testing.assert_close(theirs(x), want, rtol=2e-3, atol=2e-3)


@peers(ops.SCANS)
def test_a_peer_computes_the_same(op, name):
    device = device_for(name)
    torch.manual_seed(0)
    inputs = ops.scan_inputs(op, 2, 70, 64, torch.float32, torch.device(device))
    del inputs["initial_state"]
    want, _ = ops.SCANS[op][0](**inputs)
    torch.testing.assert_close(peer_ops.PEERS[op][name](**inputs), want, rtol=2e-3, atol=2e-3)
