from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from samba_asr.data.manifest import read_manifest
from samba_asr.data.shard_writer import write_shards
from samba_asr.errors import UserError
from samba_asr.training import checkpoint, tasks, trainer
from samba_asr.training.score import Score
from samba_asr.training.step import Stepper
from tests.training.toy import Toy, record_losses, recorded

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def losses(tmp_path, monkeypatch):
    """Return what `record_losses` wrote in this process."""
    monkeypatch.setattr(Stepper, "step", Stepper.step)  # put back at the end
    path = tmp_path / "losses"
    record_losses(path)
    return path


def start(folder, corpus, *args, **environment):
    path = Path(corpus[0].audio.partition("#")[0])
    manifest = path.with_name("manifest.jsonl" if path.suffix == ".tar" else "corpus.jsonl")
    command = [sys.executable, "-m", "tests.training.toy", str(folder), str(manifest), *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


def weights(folder):
    return checkpoint.load(folder / "last.pt")["objective"]


def test_a_run_leaves_what_it_promises(run, tmp_path):
    result, _ = run(tmp_path / "exp")
    names = {p.name for p in (tmp_path / "exp").iterdir()}
    assert {"config.yaml", "log.txt", "last.pt", "epoch-001.pt", "epoch-002.pt", "tokenizer.json"} <= names
    assert result.steps > 4
    assert result.signal == 0
    assert result.best.name == "WER"
    assert result.best.value > 0
    log = (tmp_path / "exp" / "log.txt").read_text()
    for text in ("12 utterances", "epoch 1/2 step 1 loss", "h/h", "left", "ref u0:", "hyp u0:", "validation WER"):
        assert text in log


def test_the_log_counts_no_epochs_that_a_limit_forestalls_and_no_score_without_a_step(run, tmp_path):
    run(tmp_path / "none", "train.epochs=0")
    assert (tmp_path / "none" / "log.txt").read_text().rstrip().endswith("done: 0 steps")
    run(tmp_path / "short", "train.epochs=300", "train.max_steps=2")
    log = (tmp_path / "short" / "log.txt").read_text()
    assert "epoch 1 step 1 loss" in log
    assert "/300" not in log


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_killed_and_resumed_is_the_same_as_never_killed(run, corpus, tmp_path, losses, ema):
    run(tmp_path / "whole", f"train.ema={ema}")
    whole = recorded(losses)
    die_at = len(whole) - 2
    process = start(tmp_path / "killed", corpus, f"--die-at={die_at}", f"train.ema={ema}")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed = recorded(tmp_path / "killed" / "losses-0")
    assert max(killed) == die_at

    losses.unlink()
    run(tmp_path / "killed", f"train.ema={ema}")
    resumed = recorded(losses)
    assert min(resumed) == die_at  # the killed step was not saved: it is taken again
    assert {**killed, **resumed} == whole  # exactly
    for name, x in weights(tmp_path / "whole").items():
        assert torch.equal(x, weights(tmp_path / "killed")[name])
    for name in ("epoch-001.pt", "epoch-002.pt"):
        a, b = (checkpoint.load(tmp_path / folder / name) for folder in ("whole", "killed"))
        assert a["score"] == b["score"]
        assert all(torch.equal(x, b["model"][k]) for k, x in a["model"].items())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_with_its_status(run, corpus, tmp_path, losses, number):
    process = start(tmp_path / "exp", corpus, "train.epochs=100000", "train.save_minutes=100")
    path = tmp_path / "exp" / "losses-0"
    while not (path.exists() and len(recorded(path)) > 3):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == 128 + number
    saved = checkpoint.load(tmp_path / "exp" / "last.pt")
    assert saved["step"] == max(recorded(path))

    run(tmp_path / "exp", "train.epochs=100000", f"train.max_steps={saved['step'] + 1}")
    assert list(recorded(losses)) == [saved["step"] + 1]


def test_killed_during_validation_validates_again(run, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "validate", die)
        with pytest.raises(Killed):
            run(tmp_path / "exp")
    assert not (tmp_path / "exp" / "epoch-001.pt").exists()
    run(tmp_path / "exp")
    run(tmp_path / "whole")
    a, b = (checkpoint.load(tmp_path / folder / "epoch-001.pt") for folder in ("exp", "whole"))
    assert a["score"] == b["score"]
    assert a["step"] == b["step"]


def test_two_processes_are_one_that_accumulates(run, corpus, tmp_path, losses):
    alone = "data.batch_seconds=0.1"  # 12 batches of one utterance: an even number, so that no batch is cut in two
    run(tmp_path / "one", "optim.accumulate=2", alone)
    one = recorded(losses)
    port = str(20000 + os.getpid() % 20000)
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [start(tmp_path / "two", corpus, alone, RANK=str(r), LOCAL_RANK=str(r), **common) for r in range(2)]
    for process in processes:
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0, error
    two = recorded(tmp_path / "two" / "losses-0")
    assert two == recorded(tmp_path / "two" / "losses-1")
    assert two == pytest.approx(one, rel=1e-5)
    for name, x in weights(tmp_path / "one").items():
        assert torch.allclose(x, weights(tmp_path / "two")[name], atol=1e-5), name
    a, b = (checkpoint.load(tmp_path / folder / "epoch-002.pt") for folder in ("one", "two"))
    assert a["score"] == b["score"]


@pytest.mark.parametrize("size", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_shards_give_the_steps_of_files_also_when_killed(corpus, tmp_path, size):
    shards = read_manifest(write_shards(corpus, tmp_path / "shards", size=40_000).manifest)
    assert len({u.audio.partition("#")[0] for u in shards}) > 1

    def train(folder, data, *args):
        """Train with `size` processes; return their statuses and the losses of each step."""
        port = str(20000 + (os.getpid() + 2 + size) % 20000)
        group = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if size > 1 else {}
        ranks = [{"RANK": str(r), "LOCAL_RANK": str(r), **group} if group else {} for r in range(size)]
        processes = [start(folder, data, *args, "data.batch_seconds=0.3", **rank) for rank in ranks]
        for process in processes:
            process.communicate(timeout=300)
        return [p.returncode for p in processes], recorded(folder / "losses-0")

    assert train(tmp_path / "files", corpus)[0] == [0] * size
    whole = recorded(tmp_path / "files" / "losses-0")
    statuses, killed = train(tmp_path / "exp", shards, "--die-at=3")
    assert -signal.SIGKILL in statuses
    statuses, resumed = train(tmp_path / "exp", shards)
    assert statuses == [0] * size
    assert {**killed, **resumed} == whole  # exactly


def test_a_signal_to_one_of_two_processes_ends_both(corpus, tmp_path):
    port = str(20000 + (os.getpid() + 1) % 20000)
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    options = "train.epochs=100000", "train.save_minutes=100", "train.valid_every=100000"
    both = [start(tmp_path / "exp", corpus, *options, RANK=str(r), LOCAL_RANK=str(r), **common) for r in range(2)]
    path = tmp_path / "exp" / "losses-0"
    while not (path.exists() and len(recorded(path)) > 3):
        assert all(process.poll() is None for process in both)
        time.sleep(0.02)
    both[1].send_signal(signal.SIGTERM)
    for process in both:
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 143, error
    assert checkpoint.load(tmp_path / "exp" / "last.pt")["step"] == max(recorded(path))


def test_unused_parameters_stay_as_they_are(run, tmp_path):
    before = Toy().never.weight.clone()
    _, model = run(tmp_path / "exp", "optim.weight_decay=0.5")
    assert torch.equal(model.never.weight, before)
    assert model.sometimes.abs().sum() > 0


def test_another_configuration_is_refused_by_the_key_that_differs(run, tmp_path):
    run(tmp_path / "exp", "train.epochs=1")
    with pytest.raises(UserError, match=r"optim\.lr=0\.01, not 0\.02"):
        run(tmp_path / "exp", "train.epochs=1", "optim.lr=0.02")


def test_other_data_are_refused(run, tmp_path, corpus):
    run(tmp_path / "exp", "train.epochs=1")
    with pytest.raises(UserError, match="other training data"):
        run(tmp_path / "exp", "train.epochs=2", data=corpus[1:])


def test_more_epochs_continue_a_finished_run(run, tmp_path):
    first, _ = run(tmp_path / "exp", "train.epochs=1")
    again, _ = run(tmp_path / "exp", "train.epochs=1")
    assert again.steps == first.steps
    assert again.best == first.best
    more, _ = run(tmp_path / "exp", "train.epochs=2")
    assert more.steps > first.steps


def test_max_steps_ends_amid_an_epoch_and_validates(run, tmp_path):
    result, _ = run(tmp_path / "exp", "train.max_steps=2", "train.epochs=100")
    assert result.steps == 2
    assert checkpoint.load(tmp_path / "exp" / "epoch-001.pt")["score"] is not None
    again, _ = run(tmp_path / "exp", "train.max_steps=2", "train.epochs=100")
    assert again.steps == 2


def test_the_clock_ends_a_run_and_rules_its_schedule(run, tmp_path, monkeypatch):
    rates = []
    original = Stepper.step
    monkeypatch.setattr(
        Stepper,
        "step",
        lambda self, work, *, number, lr: (
            rates.append(lr),
            time.sleep(0.02),
            original(self, work, number=number, lr=lr),
        )[-1],
    )
    minutes = 0.5 / 60
    options = f"train.max_minutes={minutes}", "train.epochs=100000", "optim.warmup=0", "train.save_minutes=9"
    run(tmp_path / "exp", *options)
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.9 * 0.01
    assert rates[-1] < 0.5 * 0.01
    saved = checkpoint.load(tmp_path / "exp" / "last.pt")
    assert saved["elapsed"] >= 0.5
    again, _ = run(tmp_path / "exp", *options)
    assert again.steps == saved["step"]


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_only_the_best_and_the_last_checkpoints_stay(run, tmp_path, monkeypatch, lower_is_better):
    values = iter([30.0, 10.0, 20.0, 40.0, 50.0] if lower_is_better else [0.3, 0.9, 0.5, 0.2, 0.1])
    found = lambda self: Score("it", next(values), lower_is_better=lower_is_better)  # noqa: E731
    monkeypatch.setattr(trainer.Trainer, "_validate", found)
    result, _ = run(tmp_path / "exp", "train.epochs=5", "train.keep_best=2", "train.keep_last=1")
    assert sorted(p.name for p in (tmp_path / "exp").glob("epoch-*.pt")) == [
        "epoch-002.pt",
        "epoch-003.pt",
        "epoch-005.pt",
    ]
    assert result.best.value == (10.0 if lower_is_better else 0.9)
    assert [p.name for p in checkpoint.choose(tmp_path / "exp", best=2)] == ["epoch-002.pt", "epoch-003.pt"]
    assert [p.name for p in checkpoint.choose(tmp_path / "exp", last=2)] == ["epoch-003.pt", "epoch-005.pt"]


def test_worker_processes_give_the_same_steps(run, tmp_path, losses):
    run(tmp_path / "thread", "train.epochs=1")
    thread = recorded(losses)
    losses.unlink()
    run(tmp_path / "workers", "train.epochs=1", "data.workers=2")
    assert recorded(losses) == thread


def test_evaluation_sees_the_moving_average(run, tmp_path):
    _, model = run(tmp_path / "exp", "train.ema=0.9")
    kept = checkpoint.load(tmp_path / "exp" / "epoch-002.pt")["model"]
    last = checkpoint.load(tmp_path / "exp" / "last.pt")
    assert torch.equal(kept["head.weight"], last["ema"]["net.head.weight"])
    assert torch.equal(model.head.weight, last["objective"]["net.head.weight"])
    assert not torch.equal(kept["head.weight"], last["objective"]["net.head.weight"])


def test_an_id_twice_in_validation_is_refused(run, corpus, tmp_path):
    with pytest.raises(UserError, match="'u0'"):
        run(tmp_path / "exp", valid=[corpus[0], corpus[0]])


def test_a_run_whose_every_step_fails_is_not_done(run, tmp_path):
    with pytest.raises(UserError, match=r"no step of epoch 2, the last one, was finite .* lower optim\.lr=1e\+30"):
        run(tmp_path / "exp", "optim.lr=1e30", "optim.warmup=0")


def test_a_disk_that_was_full_for_a_while_costs_nothing_but_that_save(run, tmp_path, monkeypatch, caplog):
    save, failures = checkpoint.save, iter([0, 1, 1, 0, 0, 1])

    def sometimes(path, content, before=None):
        if next(failures, 0):
            raise OSError(28, "No space left on device")
        save(path, content, before)

    monkeypatch.setattr(checkpoint, "save", sometimes)
    result, _ = run(tmp_path / "exp")
    assert "last.pt cannot be written (No space left on device): training goes on and tries again" in caplog.text
    assert checkpoint.load(tmp_path / "exp" / "last.pt")["step"] == result.steps
    assert (tmp_path / "exp" / checkpoint.BEFORE).exists()


def test_the_last_save_must_succeed(run, tmp_path, monkeypatch):
    def full(path, content, before=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(UserError, match=r"last\.pt cannot be written \(No space left on device\): make room"):
        run(tmp_path / "exp", "train.epochs=1")


def test_a_second_run_in_the_folder_is_refused(run, corpus, tmp_path):
    process = start(tmp_path / "exp", corpus, "train.epochs=100000", "train.save_minutes=100")
    path = tmp_path / "exp" / "losses-0"
    while not (path.exists() and recorded(path)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    with pytest.raises(UserError, match=rf"process {process.pid} on .* trains here"):
        run(tmp_path / "exp")
    process.kill()
    process.communicate()


def test_what_validation_cannot_measure_is_said(run, corpus, tmp_path, caplog):
    run(tmp_path / "none", "train.epochs=1", valid=[])
    assert "no utterances to validate on: there are none" in caplog.text
    caplog.clear()
    run(tmp_path / "foreign", "train.epochs=1", valid=[dataclasses.replace(corpus[0], text="ab z a")])
    assert "the tokenizer cannot encode z, 1 of the 3 words of the validation texts" in caplog.text
