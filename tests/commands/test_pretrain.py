"""`samba-asr pretrain`, and `train --init-encoder` after it."""

from __future__ import annotations

import argparse
import logging
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from samba_asr.commands import pretrain, train
from samba_asr.data.manifest import read_manifest, write_manifest
from samba_asr.errors import UserError
from samba_asr.training import checkpoint
from samba_asr.training.curves import read_curves
from tests.support.model_folder import SMALL_TRAINING as SMALL
from tests.training.toy import make_corpus


def call(*args) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    pretrain.add_parser(subparsers)
    train.add_parser(subparsers)
    parsed = parser.parse_args([str(a) for a in args])
    return parsed.run(parsed)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pretrain")
    make_corpus(folder)
    silent = [replace(u, text="", duration=None) for u in read_manifest(folder / "corpus.jsonl")]
    write_manifest(folder / "speech.jsonl", silent)
    sets = [f"data.train=[{folder / 'speech.jsonl'}]", f"data.valid=[{folder / 'speech.jsonl'}]"]
    assert (
        call("pretrain", "--exp", folder / "pre", *SMALL, "model.self_conditioning=[]", "pretrain.codes=9", *sets) == 0
    )
    return folder


def test_it_wants_no_texts_and_leaves_an_encoder(place):
    log = (place / "pre" / "log.txt").read_text()
    assert "12 utterances" in log
    assert list(read_curves(place / "pre").validation) == ["hidden frames not guessed, %", "loss, nats a frame"]
    weights = load_file(place / "pre" / "model" / "encoder.safetensors")
    trained = checkpoint.load(place / "pre" / "epoch-002.pt")["model"]
    assert weights
    for name, value in weights.items():
        assert torch.equal(value, trained[name])
    std = next(v for name, v in weights.items() if name.endswith(".std"))
    assert std.ne(1).all()  # CMVN was measured


def test_the_same_command_continues(place, caplog):
    sets = [f"data.train=[{place / 'speech.jsonl'}]", f"data.valid=[{place / 'speech.jsonl'}]"]
    with caplog.at_level(logging.INFO):
        assert (
            call("pretrain", "--exp", place / "pre", *SMALL, "model.self_conditioning=[]", "pretrain.codes=9", *sets)
            == 0
        )
    assert "resuming at epoch 3" in caplog.text


def start(place, exp, *more) -> int:
    sets = [f"data.train=[{place / 'corpus.jsonl'}]", f"data.valid=[{place / 'corpus.jsonl'}]"]
    return call(
        "train", "--exp", exp, "--init-encoder", place / "pre" / "model", *SMALL, *sets, "train.epochs=0", *more
    )


def test_training_begins_with_it(place, tmp_path):
    assert start(place, tmp_path / "exp", "model.self_conditioning=[]", "train.epochs=1", "optim.lr=1e-12") == 0
    model = checkpoint.load(tmp_path / "exp" / "last.pt")["objective"]
    for name, value in load_file(place / "pre" / "model" / "encoder.safetensors").items():
        torch.testing.assert_close(value, model[f"net.acoustic.{name}"])


@pytest.mark.parametrize("objective", ["masked", "causal", "diffusion"])
def test_every_objective_leaves_an_encoder_that_training_takes(place, tmp_path, objective):
    speech = place / "speech.jsonl"
    sets = [f"data.train=[{speech}]", f"data.valid=[{speech}]", "model.self_conditioning=[]", "model.fusion=true"]
    exp = tmp_path / "pre"
    assert call("pretrain", "--exp", exp, *SMALL, *sets, f"pretrain.objective={objective}", "train.epochs=1") == 0
    error = "mean squared error" if objective == "diffusion" else "mean absolute error"
    assert error in read_curves(exp).validation
    trained = checkpoint.load(exp / "last.pt")["objective"]
    encoder = load_file(exp / "model" / "encoder.safetensors")
    moved = {name for name, x in encoder.items() if not torch.equal(x, trained[f"net.{name}"])}
    folded = {name for name in encoder if name.startswith("front.layers.1.") and name.endswith(".norm.bias")}
    assert len(folded) == 1
    assert moved == (folded if objective == "diffusion" else set())
    fused = ["model.self_conditioning=[]", "model.fusion=true", "optim.encoder_lr=1e-4"]
    assert start(place, tmp_path / "exp", *fused, "--init-encoder", exp / "model") == 0


def test_the_probe_prints_how_many_phones_are_right(place, tmp_path, capsys):
    """The toy's words are no English, but they have phones, and its frames are of some speaker."""
    spoken = [replace(u, speaker=f"s{i % 3}") for i, u in enumerate(read_manifest(place / "corpus.jsonl"))]
    write_manifest(tmp_path / "spoken.jsonl", spoken)
    sets = [f"data.train=[{place / 'speech.jsonl'}]", "model.self_conditioning=[]", "pretrain.objective=masked"]
    probe = ["--probe", tmp_path / "spoken.jsonl"]
    assert call("pretrain", "--exp", tmp_path / "pre", *probe, *SMALL, *sets, "train.max_steps=1") == 0
    title, random, masked = capsys.readouterr().out.splitlines()
    assert title.startswith("phones of ")
    assert random.startswith("random weights")
    assert masked.startswith("masked")
    assert all(0 <= float(share) <= 100 for line in (random, masked) for share in line.split()[-2:])


def test_fusion_can_begin_after_pretraining(place, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert start(place, tmp_path / "exp", "model.self_conditioning=[]", "model.fusion=true") == 0
    assert "other weights are random, and encoder.fusion.weight, encoder.fusion.gain" in caplog.text


def test_what_depends_on_the_text_starts_afresh_and_is_named(place, tmp_path, caplog):
    deeper = ["model.layers=2", "model.self_conditioning=[1]"]
    sets = [f"data.train=[{place / 'speech.jsonl'}]", "data.valid=[]"]
    with caplog.at_level(logging.INFO):
        assert call("pretrain", "--exp", tmp_path / "pre", *SMALL, *deeper, *sets, "train.epochs=1") == 0
        assert start(place, tmp_path / "exp", *deeper, "--init-encoder", tmp_path / "pre" / "model") == 0
    assert "other weights are random, and encoder.conditioning.1.head.weight" in caplog.text


def test_what_cannot_be(place, tmp_path):
    with pytest.raises(UserError, match=r"data\.train is empty"):
        call("pretrain", "--exp", tmp_path / "a", *SMALL)
    speech = f"data.train=[{place / 'speech.jsonl'}]"
    with pytest.raises(
        UserError, match=r"pretrain\.objective=speech is not an objective for speech without texts; there are: best_rq"
    ):
        call("pretrain", "--exp", tmp_path / "e", *SMALL, speech, "pretrain.objective=speech")
    with pytest.raises(UserError, match=r"unknown objective 'best_qr' \(did you mean 'best_rq'\?\)"):
        call("pretrain", "--exp", tmp_path / "e", *SMALL, speech, "pretrain.objective=best_qr")
    with pytest.raises(UserError, match="does not hold this model's weights"):
        start(place, tmp_path / "b", "model.d_model=24", "model.self_conditioning=[]")
    with pytest.raises(UserError, match="does not hold this model's weights"):  # more layers than were pretrained
        start(place, tmp_path / "b2", "model.layers=2", "model.self_conditioning=[]")
    spoiled = tmp_path / "spoiled"
    shutil.copytree(place / "pre" / "model", spoiled)
    weights = load_file(spoiled / "encoder.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, spoiled / "encoder.safetensors")
    with pytest.raises(UserError, match=r"encoder\.safetensors: \S+ holds numbers that are not finite"):
        start(place, tmp_path / "b3", "model.self_conditioning=[]", "--init-encoder", spoiled)
    with pytest.raises(UserError, match="holds no pretrained encoder"):
        start(place, tmp_path / "c", "--init-encoder", tmp_path)
    with pytest.raises(UserError, match=r"leave init_encoder \(--init-encoder\) out"):
        start(place, tmp_path / "d", "--init", "digits")
