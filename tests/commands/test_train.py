"""`samba-asr train` and `samba-asr average`, with the real model at its smallest."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re

import numpy as np
import pytest
import torch

from samba_asr.audio.channels import BANDS, Channels
from samba_asr.audio.read import read
from samba_asr.commands import average, train
from samba_asr.data import teacher
from samba_asr.data.manifest import read_manifest, write_manifest
from samba_asr.decoding.confidence import Calibration
from samba_asr.errors import UserError
from samba_asr.models.folder import load_model
from samba_asr.text.tokenizer import CharTokenizer
from samba_asr.training import checkpoint
from samba_asr.training.curves import read_curves
from tests.support.model_folder import SMALL_TRAINING as SMALL
from tests.support.model_folder import make_model
from tests.training.toy import make_corpus


def call(*args) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    train.add_parser(subparsers)
    average.add_parser(subparsers)
    parsed = parser.parse_args([str(a) for a in args])
    return parsed.run(parsed)


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("train")
    make_corpus(folder)
    manifest = folder / "corpus.jsonl"
    options = [*SMALL, f"data.train=[{manifest}]", f"data.valid=[{manifest}]"]
    assert call("train", "--exp", folder / "exp", *options) == 0
    return folder / "exp", options


def test_training_writes_checkpoints_and_a_tokenizer(exp):
    folder, _ = exp
    assert {"config.yaml", "log.txt", "last.pt", "epoch-002.pt", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    curves = read_curves(folder)
    assert {"loss", "ctc"} <= curves.training.keys()
    assert len(curves.validation["WER, %"]) == 2
    model = checkpoint.load(folder / "epoch-002.pt")["model"]
    (std,) = (x for name, x in model.items() if name.endswith(".std"))
    assert std.ne(1).all()  # CMVN was measured


def test_the_same_command_continues(exp, caplog):
    folder, options = exp
    with caplog.at_level(logging.INFO):
        assert call("train", "--exp", folder, *options) == 0
    assert "resuming at epoch 3" in caplog.text


def test_ctc_crf_learns_and_continues(exp, tmp_path, caplog):
    """Its trigram is counted anew when a run goes on."""
    _, options = exp
    options = [*options, "loss.crf=1", "loss.ctc=0.1", "train.epochs=3", "optim.lr=0.01"]
    with caplog.at_level(logging.INFO):
        assert call("train", "--exp", tmp_path, *options, "train.max_steps=3") == 0
        assert call("train", "--exp", tmp_path, *options, "train.max_steps=9") == 0
    losses = [float(text.split(" crf ")[1].split()[0]) for text in caplog.messages if " crf " in text]
    assert len(losses) == 9
    assert losses[-1] < losses[0]


def test_mwer_goes_on_from_a_model_with_its_search_and_continues(exp, tmp_path, caplog):
    """The search is the model's own, whose files are copied into the run."""
    folder, options = exp
    assert call("average", "--exp", folder, "--out", tmp_path / "model", "--last", 1) == 0
    options = [*options, "loss.mwer=1", "loss.ctc=0.1", "train.epochs=3", "decode.search.method=beam"]
    with caplog.at_level(logging.INFO):
        assert (
            call("train", "--exp", tmp_path / "run", "--init", tmp_path / "model", *options, "train.max_steps=2") == 0
        )
        assert (
            call("train", "--exp", tmp_path / "run", "--init", tmp_path / "model", *options, "train.max_steps=4") == 0
        )
    assert len([text for text in caplog.messages if " mwer " in text]) == 4
    assert "best validation WER" in caplog.text
    with pytest.raises(UserError, match=r"loss\.mwer=1 needs several hypotheses, and greedy search has one"):
        call("train", "--exp", tmp_path / "no", *options, "decode.search.method=greedy")


@pytest.mark.parametrize("chosen", [[], ["--best", 1], ["--last", 2]])
def test_the_average_is_a_model_folder(exp, tmp_path, chosen):
    folder, _ = exp
    assert call("average", "--exp", folder, "--out", tmp_path / "model", *chosen) == 0
    loaded = load_model(tmp_path / "model")
    assert loaded.tokenizer.vocab_size == loaded.config.model.vocab_size
    count = 1 if chosen[:1] == ["--best"] else 2
    files = checkpoint.choose(folder, last=2) if count == 2 else checkpoint.choose(folder, best=1)
    expected = checkpoint.average(files)
    for name, x in loaded.model.state_dict().items():
        assert torch.equal(x, expected[name])


def test_the_average_of_named_files(exp, tmp_path):
    folder, _ = exp
    assert call("average", "--exp", folder, "--out", tmp_path / "model", folder / "epoch-001.pt") == 0
    weights = checkpoint.load(folder / "epoch-001.pt")["model"]
    assert torch.equal(load_model(tmp_path / "model").model.ctc.linear.weight, weights["ctc.linear.weight"])


def test_the_average_with_another_model(exp, tmp_path):
    folder, _ = exp
    for n in (1, 2):
        call("average", "--exp", folder, "--out", tmp_path / f"{n}", folder / f"epoch-00{n}.pt")
    one, two = (load_model(tmp_path / f"{n}").model.state_dict() for n in (1, 2))
    first = folder / "epoch-001.pt"
    assert call("average", "--exp", folder, "--out", tmp_path / "both", first, "--with", tmp_path / "2") == 0
    for name, x in load_model(tmp_path / "both").model.state_dict().items():
        torch.testing.assert_close(x, (one[name] + two[name]) / 2 if x.is_floating_point() else one[name])
    with pytest.raises(UserError, match="its tokenizer differs from the run"):
        call("average", "--exp", folder, "--out", tmp_path / "no", "--with", "digits")


def test_a_model_that_withholds_words_is_calibrated_on_the_validation_data_of_its_run(tmp_path, caplog):
    make_corpus(tmp_path)
    manifest = tmp_path / "corpus.jsonl"
    make_model(tmp_path / "old", "decode.endpoint.confidence=0.5")
    data = [f"data.train=[{manifest}]", f"data.valid=[{manifest}]", "train.device=cpu", "optim.lr=1e-6"]
    assert call("train", "--exp", tmp_path / "exp", "--init", tmp_path / "old", *data, "train.epochs=1") == 0
    for options, calibrated in (([], True), (["--no-calibrate"], False), (["--calibrate", manifest], True)):
        assert call("average", "--exp", tmp_path / "exp", "--out", tmp_path / "new", *options) == 0
        assert (Calibration.read(tmp_path / "new") is not None) == calibrated
    manifest.unlink()
    with caplog.at_level(logging.WARNING):
        assert call("average", "--exp", tmp_path / "exp", "--out", tmp_path / "new") == 0
    assert Calibration.read(tmp_path / "new") is None
    assert f"not calibrated: its validation data are not there ({manifest})" in caplog.text
    assert f"samba-asr calibrate --model {tmp_path / 'new'}" in caplog.text
    with pytest.raises(UserError, match="corpus"):
        call("average", "--exp", tmp_path / "exp", "--out", tmp_path / "new", "--calibrate", manifest)


def test_a_teachers_frames_are_learned_and_leave_no_trace_in_the_model(exp, tmp_path, caplog):
    _, options = exp
    train_set = next(o for o in options if o.startswith("data.train=")).split("[")[1].strip("]").split(",")
    utterances = [u for path in train_set for u in read_manifest(path)]
    teacher.write(
        lambda x: np.stack([np.arange(len(x) // 640) % 7, np.ones(len(x) // 640)], 1),
        lambda u: read(u.audio).samples,
        utterances,
        tmp_path / "frames",
        "a test",
    )
    taught = [*options, f"data.teacher={tmp_path / 'frames'}", "loss.teacher=1", "train.epochs=2"]
    with caplog.at_level(logging.INFO):
        assert call("train", "--exp", tmp_path / "taught", *taught) == 0
    assert any(" teacher " in text for text in caplog.messages)
    call("average", "--exp", tmp_path / "taught", "--out", tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert (loaded.config.model.teacher, loaded.config.data.teacher, loaded.config.loss.teacher) == (0, "", 0.0)
    assert not any(name.startswith("pupil") for name in loaded.model.state_dict())
    data = [o for o in options if o.startswith("data.")]
    again = ["--exp", tmp_path / "again", "--init", tmp_path / "model", *data, *taught[-3:-1], "train.epochs=1"]
    assert call("train", *again) == 0  # and it may be taught again
    with pytest.raises(UserError, match=r"needs data\.teacher"):
        call("train", "--exp", tmp_path / "none", *options, "loss.teacher=1")
    with pytest.raises(UserError, match=r"set loss\.teacher"):
        call("train", "--exp", tmp_path / "none", *options, taught[-3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tokenizer.kind=bpe", "holds a tokenizer of kind char with 5 units, the configuration asks for bpe with 256"),
        ("optim.lr=0.5", "optim.lr=0.001, not 0.5"),
        ("data.train=[]", "data.train is empty"),
        ("train.dtype=float8", "'float8'"),
        ("train.device=tpu9", "'tpu9'"),
        ("optim.schedule=linear", "optim.schedule"),
    ],
)
def test_what_the_user_can_mend_is_a_user_error(exp, change, message):
    folder, options = exp
    with pytest.raises(UserError) as error:
        call("train", "--exp", folder, *options, change)
    assert message in str(error.value)


def test_training_may_begin_with_a_model(exp, tmp_path):
    folder, options = exp
    call("average", "--exp", folder, "--out", tmp_path / "model", "--language", "German", "--license", "CC0")
    few = [o for o in options if o.startswith("data.")]  # its configuration is the model's own
    (tmp_path / "model/books.arpa").write_text("its language model")
    few.append("decode.lm=books.arpa")
    tuned = ["--exp", tmp_path / "tuned", "--init", tmp_path / "model", *few]
    assert call("train", *tuned, "train.epochs=1", "optim.lr=1e-12") == 0
    want = load_model(tmp_path / "model").model.state_dict()
    got = checkpoint.load(tmp_path / "tuned/epoch-001.pt")["model"]
    for name, x in want.items():
        torch.testing.assert_close(got[name], x, msg=name)
    assert (tmp_path / "tuned/tokenizer.json").read_text() == (tmp_path / "model/tokenizer.json").read_text()
    assert call("train", *tuned, "train.epochs=2", "optim.lr=1e-12") == 0  # it continues, rather than begin again
    assert "resuming at epoch 2" in (tmp_path / "tuned/log.txt").read_text()
    call("average", "--exp", tmp_path / "tuned", "--out", tmp_path / "new")  # with what its search settings name
    assert (tmp_path / "new/books.arpa").read_text() == "its language model"
    card = (tmp_path / "new/README.md").read_text()
    for line in (
        "- Language: German",
        "- Made from: model",
        "- License of the weights: CC0, as model, from which it was made; its data may add conditions",
    ):
        assert f"\n{line}\n" in card
    assert re.search(r"\n- Trained on: \S+/corpus\.jsonl \(\d+ utterances, 0\.\d\d h\)\n", card)


def test_a_model_may_become_deeper(exp, tmp_path):
    folder, options = exp
    call("average", "--exp", folder, "--out", tmp_path / "model")
    few = [o for o in options if o.startswith("data.")]
    call("train", "--exp", tmp_path / "deep", "--init", tmp_path / "model", *few, "model.layers=3", "train.epochs=1")
    assert load_model(tmp_path / "model").config.model.layers == 1
    call("average", "--exp", tmp_path / "deep", "--out", tmp_path / "deeper")
    assert len(load_model(tmp_path / "deeper").model.acoustic.encoder.layers) == 3


def test_a_model_of_the_box_goes_by_its_name(exp, tmp_path):
    folder, _ = exp
    spoken = [dataclasses.replace(u, text="ONE TWO") for u in read_manifest(folder.parent / "corpus.jsonl")]
    write_manifest(tmp_path / "corpus.jsonl", spoken)
    few = [f"data.{name}=[{tmp_path / 'corpus.jsonl'}]" for name in ("train", "valid")]
    assert call("train", "--exp", tmp_path, "--init", "digits", *few, "train.epochs=0") == 0
    assert (tmp_path / "tokenizer.model").exists()


def test_a_model_to_begin_with_may_get_other_units(exp, tmp_path):
    folder, options = exp
    call("average", "--exp", folder, "--out", tmp_path / "model")
    (tmp_path / "tuned").mkdir()
    CharTokenizer(["▁", "a", "b", "x"]).save(tmp_path / "tuned")  # made by an earlier stage
    few = [o for o in options if o.startswith("data.")]
    tuned = ["--exp", tmp_path / "tuned", "--init", tmp_path / "model", "--new-tokenizer", *few]
    assert call("train", *tuned, "train.epochs=1", "optim.lr=1e-12") == 0
    before = load_model(tmp_path / "model").model.state_dict()
    after = checkpoint.load(tmp_path / "tuned/epoch-001.pt")["model"]
    same = lambda x, y: x.shape == y.shape and torch.allclose(x.float(), y.float(), atol=1e-6)  # noqa: E731
    differ = {name for name in before if not same(before[name], after[name])}
    assert differ == {"ctc.linear.weight", "ctc.linear.bias"}
    assert after["ctc.linear.bias"].shape == (6,)
    with pytest.raises(UserError, match=r"new_tokenizer .* needs init"):
        call("train", "--exp", tmp_path / "b", "--new-tokenizer", *options)


def test_a_model_to_begin_with_must_fit(exp, tmp_path):
    folder, options = exp
    call("average", "--exp", folder, "--out", tmp_path / "model")
    with pytest.raises(UserError, match=r"do not fit .*; of model\.\*, only more layers are possible: .*size mismatch"):
        call("train", "--exp", tmp_path / "a", "--init", tmp_path / "model", *options, "model.d_model=40")
    with pytest.raises(UserError, match=r"no configuration .*nowhere"):
        call("train", "--exp", tmp_path / "b", "--init", tmp_path / "nowhere", *options)
    (tmp_path / "c").mkdir()
    CharTokenizer(["▁", "a", "b", "x"]).save(tmp_path / "c")
    with pytest.raises(UserError, match="its tokenizer is not that of the run"):
        call("train", "--exp", tmp_path / "c", "--init", tmp_path / "model", *options)


def test_a_file_is_no_folder(exp, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make this folder"):
        call("train", "--exp", tmp_path / "file", *exp[1])


def test_average_wants_a_run(exp, tmp_path):
    folder, _ = exp
    with pytest.raises(UserError, match=r"no config\.yaml"):
        call("average", "--exp", tmp_path, "--out", tmp_path / "model")
    with pytest.raises(UserError, match="best 0: give 1 or more"):
        call("average", "--exp", folder, "--out", tmp_path / "model", "--best", 0)
    with pytest.raises(UserError, match="there is no such checkpoint"):
        call("average", "--exp", folder, "--out", tmp_path / "model", tmp_path / "epoch-009.pt")


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("[1,2,3]", "data.weights has 3 numbers, data.train has 2 manifests"),
        ("[1,-1]", "-1.0 of .* is not a number of at least 0"),
        ("[1,.nan]", "nan of .* is not a number of at least 0"),
        ("[.inf,1]", "inf of .* is not a number of at least 0"),
        ("[0,0]", "all 0"),
    ],
)
def test_weights_that_do_not_fit_the_manifests_are_refused(exp, tmp_path, weights, says):
    folder, options = exp
    manifest = folder.parent / "corpus.jsonl"
    with pytest.raises(UserError, match=says):
        call("train", "--exp", tmp_path, *options, f"data.train=[{manifest},{manifest}]", f"data.weights={weights}")


def test_weights_and_channels_are_of_a_run_and_do_not_travel_with_its_model(exp, tmp_path):
    folder, options = exp
    Channels(np.zeros((2, BANDS)), np.zeros((2, BANDS)), np.full(2, 30.0)).write(tmp_path / "c.npz")
    options = [*options, f"augment.channels={tmp_path / 'c.npz'}", "augment.channel_prob=0.5"]
    manifest = folder.parent / "corpus.jsonl"
    two = [f"data.train=[{manifest},{manifest}]", "data.weights=[1,0.5]"]
    assert call("train", "--exp", tmp_path / "a", *options, *two, "train.epochs=1") == 0
    with pytest.raises(UserError, match=r"data\.weights"):
        call("train", "--exp", tmp_path / "a", *options, two[0], "data.weights=[1,1]", "train.epochs=2")
    assert call("average", "--exp", tmp_path / "a", "--out", tmp_path / "model", "--last", 1) == 0
    more = ["--init", tmp_path / "model", f"data.train=[{manifest}]", "train.epochs=1"]
    assert call("train", "--exp", tmp_path / "b", *more) == 0
    assert load_model(tmp_path / "model").config.augment.channels == ""
