"""The work of `samba-asr train` and `samba-asr average`, from Python."""

from __future__ import annotations

import pytest
import torch

from samba_asr import config as configs
from samba_asr.errors import UserError
from samba_asr.models.folder import load_model
from samba_asr.recognizer import Recognizer
from samba_asr.training import checkpoint, finetune
from samba_asr.training.average import average_run

SMALL = (
    "model.d_model=16",
    "model.layers=1",
    "model.subsampling_channels=4",
    "model.mixer.d_state=4",
    "model.mixer.headdim=8",
    "tokenizer.kind=char",
    "data.batch_seconds=4",
    "train.epochs=1",
    "train.device=cpu",
    "optim.warmup=2",
)


@pytest.fixture
def config(corpus):
    manifest = corpus[0].audio.rsplit("/", 1)[0] + "/corpus.jsonl"

    def config(*overrides, files=()):
        return configs.load(files, [f"data.train=[{manifest}]", f"data.valid=[{manifest}]", *overrides])

    return config


def test_a_run_from_scratch_then_one_from_its_model(config, tmp_path):
    result = finetune.run(config(*SMALL, "train.epochs=2"), tmp_path / "first")
    assert result.best.name == "WER"
    files = sorted((tmp_path / "first").glob("epoch-*.pt"))
    assert sorted(average_run(tmp_path / "first", tmp_path / "model")) == [f.name for f in files]
    first = load_model(tmp_path / "model").model.state_dict()
    assert all(torch.equal(x, first[name]) for name, x in checkpoint.average(files).items())

    own = config("optim.lr=1e-12", "train.epochs=1", files=[tmp_path / "model/config.yaml"])
    finetune.run(own, tmp_path / "tuned", init=tmp_path / "model")
    names = average_run(tmp_path / "tuned", tmp_path / "mean", last=1, models=[tmp_path / "model"])
    assert names == ["epoch-001.pt", str(tmp_path / "model")]
    for name, x in load_model(tmp_path / "mean").model.state_dict().items():
        torch.testing.assert_close(x, first[name], msg=name)  # it began there, and has not moved


def test_what_does_not_go_together_is_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(UserError, match=r"new_tokenizer .* needs init"):
        finetune.run(config(*SMALL), tmp_path / "a", new_tokenizer=True)
    with pytest.raises(UserError, match="has an encoder"):
        finetune.run(config(*SMALL), tmp_path / "a", init=tmp_path, init_encoder=tmp_path)
    with pytest.raises(UserError, match=r"needs data\.teacher"):
        finetune.run(config(*SMALL, "loss.teacher=1"), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match=r"no config\.yaml here"):
        average_run(tmp_path, tmp_path / "model")


def test_a_bound_on_the_confidence_waits_for_a_calibration(config, tmp_path, caplog):
    """A model made of another's weights has no calibration, so the bound that it inherits does nothing, and is named."""
    finetune.run(config(*SMALL, "train.max_steps=1", "decode.endpoint.confidence=0.5"), tmp_path / "exp")
    average_run(tmp_path / "exp", tmp_path / "model")
    said = "model is not calibrated, so decode.endpoint.confidence=0.5 is ignored: samba-asr calibrate --model"
    caplog.clear()
    Recognizer.load(tmp_path / "model", device="cpu")
    assert said in caplog.text
