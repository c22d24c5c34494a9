from __future__ import annotations

import dataclasses

import pytest
import torch

from samba_asr.config import Config, OptimConfig, TrainConfig
from samba_asr.errors import UserError
from samba_asr.training import checkpoint
from samba_asr.training.score import Score


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


def test_a_bit_that_turned_is_found_and_the_run_goes_on_from_the_save_before(tmp_path, caplog):
    last, before = tmp_path / checkpoint.LAST, tmp_path / checkpoint.BEFORE
    assert checkpoint.load_last(tmp_path) is None
    for step in (1, 2):
        checkpoint.save(last, {"step": step, "w": torch.full((1000,), 1.5)}, before=before)
    assert checkpoint.load_last(tmp_path)["step"] == 2
    content = bytearray(last.read_bytes())
    content[content.index(torch.full((9,), 1.5).numpy().tobytes()) + 8] ^= 1
    last.write_bytes(content)
    with pytest.raises(
        checkpoint.Damaged, match=r"last\.pt: not a checkpoint, or damaged \(the checksum of .* is another"
    ):
        checkpoint.load(last)
    assert checkpoint.load_last(tmp_path)["step"] == 1
    assert "going on from before-last.pt, of step 1" in caplog.text
    last.unlink()  # killed between the two renames
    assert checkpoint.load_last(tmp_path)["step"] == 1
    torch.save({"version": 99}, last)  # of another version, and whole: nobody falls back silently
    with pytest.raises(UserError, match="version 99"):
        checkpoint.load_last(tmp_path)


def test_where_the_disk_is_full_no_part_file_stays(tmp_path, full_disk):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})
    with full_disk(100_000), pytest.raises(OSError, match=r"last\.pt|too large"):
        checkpoint.save(path, {"step": 2, "w": torch.zeros(100_000)}, before=tmp_path / "before")
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
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


def test_a_run_of_version_1_cannot_continue_but_its_checkpoints_can_be_averaged(tmp_path):
    """Its models held a teacher's pupil, and what it was validated by was called wer whatever it was."""
    torch.save({"version": 1, "model": {}, "optimizer": {}, "kept": []}, tmp_path / "last.pt")
    with pytest.raises(
        UserError, match=r"last\.pt: a run of an older samba_asr .* cannot continue; .*samba-asr average"
    ):
        checkpoint.load(tmp_path / "last.pt")
    for epoch, wer in ((1, 30.0), (2, 10.0), (3, None)):
        weights = {"ctc.linear.weight": torch.full((1,), wer or 0.0), "pupil.weight": torch.ones(1)}
        content = {"version": 1, "config": {}, "model": weights, "epoch": epoch, "step": epoch, "wer": wer}
        torch.save(content, tmp_path / f"epoch-00{epoch}.pt")
    files = checkpoint.choose(tmp_path, best=2)
    assert [f.name for f in files] == ["epoch-002.pt", "epoch-001.pt"]
    assert checkpoint.average(files) == {"ctc.linear.weight": torch.tensor([20.0])}


def test_the_best_are_those_of_lowest_score_or_of_highest():
    def kept(*values, **kind):
        return [checkpoint.Kept(f"{i}", i, None if v is None else Score("it", v, **kind)) for i, v in enumerate(values)]

    assert [k.file for k in checkpoint.rank(kept(3.0, None, 1.0, 2.0, 1.0))] == ["4", "2", "3", "0"]
    assert [k.file for k in checkpoint.rank(kept(3.0, None, 1.0, 2.0, lower_is_better=False))] == ["0", "3", "2"]
    some = kept(3.0, 1.0, 2.0, None)
    assert [k.file for k in checkpoint.keep(some, best=1, last=1)] == ["1", "3"]
    assert [checkpoint.Kept.of(k.plain()) for k in some] == some


def test_a_score_has_words():
    assert str(Score("WER", 12.3456, "%")) == "WER 12.35 %"
    assert str(Score("accuracy", 0.5, lower_is_better=False)) == "accuracy 0.5"


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
        checkpoint.save(files[-1], {"model": weights, "epoch": i, "score": None})
    mean = checkpoint.average(files)
    assert torch.equal(mean["w"], torch.full((2,), 3.0))
    assert mean["n"] == 0
    assert mean["h"].dtype == torch.bfloat16
    assert checkpoint.average(files[:1])["w"].tolist() == [1.0, 1.0]


def test_averaging_different_models_is_refused(tmp_path):
    for i in range(2):
        checkpoint.save(tmp_path / f"epoch-{i:03}.pt", {"model": {"w": torch.zeros(i + 1)}, "epoch": i, "score": None})
    with pytest.raises(UserError, match=r"epoch-001\.pt: not the same model as"):
        checkpoint.average(sorted(tmp_path.glob("*.pt")))
    with pytest.raises(UserError, match="use --last"):
        checkpoint.choose(tmp_path, best=1)
    with pytest.raises(UserError, match="no epoch-"):
        checkpoint.choose(tmp_path / "empty", best=1)
