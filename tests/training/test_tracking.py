"""Trackers: the same curves wherever they go, without a network; a resumed run continues them; none of them ends a run."""

from __future__ import annotations

import json
import sys

import pytest

from samba_asr.errors import UserError
from samba_asr.training.tracking import Tracking, trackers

CURVE = {2: 0.5, 4: 0.25, 6: 0.125}


def track(name, folder, steps, start=0):
    tracking = Tracking(name, folder, start, {"train.seed": 1, "optim.lr": 0.01})
    for step in steps:
        tracking.log({"train/loss": CURVE[step], "train/lr": 0.01}, step)
    tracking.close()


def tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("train/loss")}


def mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient((folder / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("samba_asr").experiment_id])
    assert run.info.run_name == folder.name
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.seed": "1", "optim.lr": "0.01"}
    return {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")}


def wandb(folder):
    """Read the files that `wandb sync` would send: records of protobuf in the log format of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    found, ids = {}, set()
    for path in (folder / "wandb").glob("offline-run-*/run-*.wandb"):
        ids.add(path.stem)
        data, at = path.read_bytes(), 7  # after the file's own head
        while at + 7 <= len(data) and (length := int.from_bytes(data[at + 4 : at + 6], "little")):
            record = Record.FromString(data[at + 7 : at + 7 + length])
            at += 7 + length
            items = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
            if "train/loss" in items:
                found[items["step"]] = items["train/loss"]
    assert len(ids) == 1
    return found


@pytest.mark.parametrize(
    "read",
    [tensorboard, pytest.param(mlflow, marks=pytest.mark.slow), pytest.param(wandb, marks=pytest.mark.slow)],
    ids=lambda read: read.__name__,
)
def test_a_resumed_run_continues_its_curve_without_a_network(read, tmp_path, monkeypatch):
    name = read.__name__
    pytest.importorskip(name, reason=f"the extra for {name} is not installed")
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # whoever calls out fails
    track(name, tmp_path, (2, 4))
    track(name, tmp_path, (4, 6), start=2)  # step 4 again: the save was at 2
    assert read(tmp_path) == CURVE


class Failing:
    def __init__(self, folder, step, settings):
        self.calls = 0

    def log(self, values, step):
        self.calls += 1
        raise OSError(28, "No space left on device")

    def close(self):
        raise AssertionError("it is off")


def test_a_tracker_that_fails_is_off_and_training_goes_on(tmp_path, monkeypatch, caplog):
    failing = Failing(tmp_path, 0, {})
    monkeypatch.setitem(trackers._entries, "mlflow", lambda *_: failing)
    track("mlflow", tmp_path, CURVE)
    assert failing.calls == 1
    assert caplog.text.count("train.tracker=mlflow is off from here: No space left on device") == 1


def test_none_writes_nothing(tmp_path):
    track("none", tmp_path, CURVE)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"unknown train.tracker 'wandbb' \(did you mean 'wandb'\?\)"):
        Tracking("wandbb", tmp_path)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_names_its_extra(name, tmp_path, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"'\.\[{name}\]"):
        Tracking(name, tmp_path)


def test_without_tensorboard_training_goes_on_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level("INFO"):
        track("tensorboard", tmp_path, CURVE)
    assert caplog.text.count("TensorBoard is off") == 1
