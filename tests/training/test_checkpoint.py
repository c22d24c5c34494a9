from __future__ import annotations

import dataclasses

import pytest
import torch

from samba_asr.config import Config, OptimConfig, TrainConfig
from samba_asr.errors import UserError
from samba_asr.training import checkpoint


def test_what_is_saved_is_loaded(tmp_path):
    content = {"model": {"w": torch.arange(3.0)}, "step": 7, "config": checkpoint.config_dict(Config())}
    checkpoint.save(tmp_path / "last.pt", content)
    loaded = checkpoint.load(tmp_path / "last.pt")
    assert loaded["step"] == 7
    assert loaded["config"] == content["config"]
    assert torch.equal(loaded["model"]["w"], torch.arange(3.0))


def test_a_write_that_dies_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})

    def die(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path)["step"] == 1


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"last\.pt: not a checkpoint, or damaged"):
        checkpoint.load(tmp_path / "last.pt")


def test_another_version_is_refused(tmp_path):
    torch.save({"version": 99}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="version 99"):
        checkpoint.load(tmp_path / "last.pt")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"version": 1, "x": Evil()}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="UnpicklingError"):
        checkpoint.load(tmp_path / "last.pt")


def test_the_length_of_a_run_may_change_but_not_what_it_does(tmp_path):
    config = Config()
    saved = checkpoint.config_dict(config)
    longer = dataclasses.replace(config, train=TrainConfig(epochs=99, max_steps=5, max_minutes=3.0))
    checkpoint.check_same_config(saved, longer, tmp_path)
    other = dataclasses.replace(config, optim=OptimConfig(betas=(0.5, 0.98)))
    with pytest.raises(UserError, match=r"optim\.betas=\[0\.9, 0\.98\], not \[0\.5, 0\.98\]"):
        checkpoint.check_same_config(saved, other, tmp_path)


def test_a_key_younger_than_the_run_counts_as_its_default(tmp_path):
    saved = checkpoint.config_dict(Config())
    del saved["optim"]["clip"]
    saved["optim"]["forgotten"] = 3
    checkpoint.check_same_config(saved, Config(), tmp_path)
    with pytest.raises(UserError, match=r"optim\.clip=1\.0, not 2\.0"):
        checkpoint.check_same_config(saved, dataclasses.replace(Config(), optim=OptimConfig(clip=2.0)), tmp_path)


def test_the_average_is_the_mean_of_the_weights(tmp_path):
    files = []
    for i, value in enumerate([1.0, 2.0, 6.0]):
        files.append(tmp_path / f"epoch-{i:03}.pt")
        weights = {"w": torch.full((2,), value), "n": torch.tensor(i), "h": torch.tensor(value, dtype=torch.bfloat16)}
        checkpoint.save(files[-1], {"model": weights, "epoch": i, "wer": None})
    mean = checkpoint.average(files)
    assert torch.equal(mean["w"], torch.full((2,), 3.0))
    assert mean["n"] == 0
    assert mean["h"].dtype == torch.bfloat16
    assert checkpoint.average(files[:1])["w"].tolist() == [1.0, 1.0]


def test_averaging_different_models_is_refused(tmp_path):
    for i in range(2):
        checkpoint.save(tmp_path / f"epoch-{i:03}.pt", {"model": {"w": torch.zeros(i + 1)}, "epoch": i, "wer": None})
    with pytest.raises(UserError, match=r"epoch-001\.pt: not the same model as"):
        checkpoint.average(sorted(tmp_path.glob("*.pt")))
    with pytest.raises(UserError, match="use --last"):
        checkpoint.choose(tmp_path, best=1)
    with pytest.raises(UserError, match="no epoch-"):
        checkpoint.choose(tmp_path / "empty", best=1)
