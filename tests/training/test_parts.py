"""Checkpoints in parts: written by the processes of a sharded run, read by any number of processes."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from samba_asr.training import checkpoint, parts
from samba_asr.training.distributed import Ranks
from samba_asr.training.sharding import Sharding, gathered, is_sharded
from tests.support.torchrun import torchrun
from tests.training.toy import Toy, ToyObjective, recorded

CPU = Ranks(torch.device("cpu"))


@pytest.fixture(scope="module")
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def made(sharded: bool) -> tuple[ToyObjective, torch.optim.AdamW]:
    objective = ToyObjective(Toy())
    if sharded:
        Sharding(objective, CPU)
    return objective, torch.optim.AdamW(objective.parameters())


@pytest.fixture
def saved(group, tmp_path) -> dict:
    """A state after one step, saved in parts; the whole tensors of it."""
    objective, optimizer = made(True)
    for p in objective.net.inside.parameters():  # the others have no state
        p.grad = torch.ones_like(p)
    optimizer.step()
    ema = {"net.head.bias": objective.net.head.bias.detach() + 1}
    content = {"step": 1, "objective": objective.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema}
    last = parts.save(tmp_path, content, CPU)
    checkpoint.save(tmp_path / checkpoint.LAST, last, before=tmp_path / checkpoint.BEFORE)
    return gathered(content)


@pytest.mark.parametrize("sharded", [True, False])
def test_the_parts_are_the_state_for_a_sharded_model_and_for_a_whole_one(saved, tmp_path, sharded):
    content = checkpoint.load_last(tmp_path)
    assert content["objective"] == {}
    assert content["optimizer"]["state"] == {}
    objective, optimizer = made(sharded)
    found = parts.load(tmp_path, content, objective, optimizer)
    assert is_sharded(found["objective"]["net.inside.weight"]) == sharded
    assert is_sharded(found["optimizer"]["state"][1]["exp_avg"]) == sharded
    found = gathered(found)
    assert found["step"] == 1
    for key in ("objective", "optimizer", "ema"):
        assert found[key].keys() == saved[key].keys()
    torch.testing.assert_close(found["objective"], saved["objective"], rtol=0, atol=0)
    torch.testing.assert_close(found["ema"], saved["ema"], rtol=0, atol=0)
    torch.testing.assert_close(found["optimizer"]["state"], saved["optimizer"]["state"], rtol=0, atol=0)
    optimizer.load_state_dict(found["optimizer"] if not sharded else gathered(found["optimizer"]))


def test_a_turned_bit_and_a_missing_file_lead_to_the_save_before(saved, tmp_path, caplog):
    content = checkpoint.load_last(tmp_path)
    again = parts.save(tmp_path, {**content, "objective": saved["objective"], "ema": None, "step": 2}, CPU)
    checkpoint.save(tmp_path / checkpoint.LAST, again, before=tmp_path / checkpoint.BEFORE)
    assert checkpoint.load_last(tmp_path)["step"] == 2
    (file,) = (tmp_path / "last-2").glob("*.distcp")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert checkpoint.load_last(tmp_path)["step"] == 1
    assert f"last-2/{file.name}: missing, or damaged; going on from before-last.pt, of step 1" in caplog.text
    shutil.rmtree(tmp_path / "last-1")
    with pytest.raises(checkpoint.Damaged, match=r"last-1/.*: missing, or damaged"):
        checkpoint.load_last(tmp_path)


def test_only_folders_that_are_named_stay(tmp_path):
    for name in ("last-1", "last-2", "last-3", "last-words"):
        (tmp_path / name).mkdir()
    parts.clean(tmp_path, {"last-2", ""})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last-2", "last-words"]


def test_metadata_that_run_code_are_refused(saved, tmp_path):
    class Evil:
        def __reduce__(self):
            return eval, ("1",)

    (tmp_path / "last-1" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.eval is no part of a checkpoint"):
        parts.load(tmp_path, {"parts": {"folder": "last-1"}}, *made(False))


def test_members_of_enumerations_are_read_as_old_pythons_save_them(saved, tmp_path):
    """Before 3.11.4 a member is a call of `getattr`, which may find nothing else."""
    read = parts._Unpickler(io.BytesIO(pickle.dumps(Getting(_MEM_FORMAT_ENCODING, "TORCH_PRESERVE_FORMAT"))))
    assert read.load() is _MEM_FORMAT_ENCODING.TORCH_PRESERVE_FORMAT
    for owner, name in ("text", "upper"), (_MEM_FORMAT_ENCODING, "__init__"), (_MEM_FORMAT_ENCODING, "mro"):
        with pytest.raises(pickle.UnpicklingError, match="is no part of a checkpoint"):
            parts._Unpickler(io.BytesIO(pickle.dumps(Getting(owner, name)))).load()


class Getting:
    def __init__(self, owner, name):
        self.found = owner, name

    def __reduce__(self):
        return getattr, self.found


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_is_an_error_of_the_system(group, tmp_path, full_disk):
    content = {"objective": {"w": torch.zeros(100_000)}, "optimizer": {"state": {}}, "ema": None}
    with full_disk(100_000), pytest.raises(OSError, match=r"last-1: "):
        parts.save(tmp_path, content, CPU)


@pytest.mark.slow
def test_two_sharded_processes_are_continued_by_one_and_by_three(corpus, tmp_path):
    """A step has six batches of one utterance, whoever computes them, so the losses are those of one process alone."""
    data = Path(corpus[0].audio).parent / "corpus.jsonl"
    options = ("data.batch_seconds=0.1", "train.ema=0.9", "optim.schedule=constant", "optim.weight_decay=0", "--always")

    def go(name: str, processes: int, epochs: int, shard: bool) -> None:
        more = f"train.epochs={epochs}", f"optim.accumulate={6 // processes}", f"train.shard={str(shard).lower()}"
        torchrun(tmp_path / name, data, *options, *more, processes=processes)

    go("whole", 1, 3, False)
    go("one", 2, 1, True)
    assert checkpoint.load(tmp_path / "one" / "last.pt")["objective"] == {}
    shutil.copytree(tmp_path / "one", tmp_path / "three")
    go("one", 1, 3, False)
    go("three", 3, 3, True)
    wanted = recorded(tmp_path / "whole" / "losses-0")
    assert len(wanted) == 6
    for name in ("one", "three"):
        assert recorded(tmp_path / name / "losses-0") == pytest.approx(wanted, rel=1e-4)
    assert sorted(path.name for path in (tmp_path / "one").glob("last*")) == ["last.pt"]
