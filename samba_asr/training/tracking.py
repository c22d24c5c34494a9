"""Where the curves of a run go: TensorBoard, MLflow or Weights & Biases, by `train.tracker`, or nowhere.

All of them work offline, in the folder of the run.  Nothing is sent anywhere unless the user's environment says so:

    tensorboard   FOLDER/tensorboard
    mlflow        FOLDER/mlflow, or MLFLOW_TRACKING_URI
    wandb         FOLDER/wandb, for `wandb sync`; WANDB_MODE=online sends it at once
    none          nowhere; `log.txt` has the same numbers

A resumed run continues its curves: FOLDER/tracker.json has the tracker's own name for the run.  A tracker that fails is off from
there, with one warning, and training goes on.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from samba_asr.errors import UserError, missing_extra, to_install
from samba_asr.registry import Registry

logger = logging.getLogger(__name__)

trackers = Registry("train.tracker")
PROJECT = "samba_asr"
NAMES = "tracker.json"  # tracker -> its name for the run


class Tracker(Protocol):
    """What a tracker does; the constructor is called with (folder, step, settings), as in `Tracking`."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values by name, such as train/loss, at a step."""
        ...

    def close(self) -> None: ...


class Tracking:
    """The one hook between training and a tracker."""

    def __init__(self, name: str, folder: Path, step: int = 0, settings: Mapping[str, Any] | None = None):
        """folder: of the run.  step: where the run begins or resumes.  settings: by their flat names.

        UserError for an unknown tracker, or one whose package is not installed; TensorBoard, the default, is then off.
        """
        self.name, self._tracker = name, None
        make = trackers[name]
        try:
            self._tracker: Tracker | None = make(folder, step, dict(settings or {}))
        except UserError:
            raise
        except Exception as error:
            self._off(error)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values by name at a step."""
        if self._tracker is not None:
            try:
                self._tracker.log(values, step)
            except Exception as error:
                self._tracker = None
                self._off(error)

    def close(self) -> None:
        if self._tracker is not None:
            try:
                self._tracker.close()
            except Exception as error:
                self._off(error)
            self._tracker = None

    def _off(self, error: Exception) -> None:
        # Any error: a full disk, a server that is away, a package's own.  None of them is a reason to lose a run.
        why = getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__
        logger.warning("train.tracker=%s is off from here: %s", self.name, why)


@trackers.register("none")
def _nothing(folder: Path, step: int, settings: Mapping[str, Any]) -> None:
    """Track nothing."""


@trackers.register("tensorboard")
def _tensorboard(folder: Path, step: int, settings: Mapping[str, Any]) -> Tracker | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("TensorBoard is off: %s to have it", to_install("train"))
        return None
    # It hides what a killed run wrote after `step`.
    return TensorBoard(SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1))


class TensorBoard:
    """Event files for `tensorboard --logdir`."""

    def __init__(self, writer: Any):
        self.writer = writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


@trackers.register("mlflow")
class Mlflow:
    """A run of MLflow, in the experiment `samba_asr` or MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any]):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask for it
        try:
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise missing_extra("mlflow", "mlflow") from None
        self._metric = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlflow").absolute().as_uri()
        self.client = MlflowClient(uri)
        self.id = _names(folder).get("mlflow", "")
        if not self.id:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            known = self.client.get_experiment_by_name(name)
            experiment = known.experiment_id if known else self.client.create_experiment(name)
            self.id = self.client.create_run(experiment, run_name=folder.absolute().name).info.run_id
            params = [Param(key, str(value)[:500]) for key, value in settings.items()]
            for at in range(0, len(params), 100):  # at a time, at most
                self.client.log_batch(self.id, params=params[at : at + 100])
            _name(folder, "mlflow", self.id)
        self.client.update_run(self.id, status="RUNNING")

    def log(self, values: Mapping[str, float], step: int) -> None:
        now = round(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[self._metric(k, float(v), now, step) for k, v in values.items()])

    def close(self) -> None:
        self.client.set_terminated(self.id)


@trackers.register("wandb")
class WandB:
    """A run of Weights & Biases, in the project `samba_asr` or WANDB_PROJECT."""

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any]):
        try:
            import wandb
        except ImportError:
            raise missing_extra("wandb", "wandb") from None
        id = _names(folder).get("wandb", "") or uuid.uuid4().hex[:8]
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.absolute().name,
            dir=str(folder),
            id=id,
            resume="allow",
            mode=mode,
            config=dict(settings),
            settings=wandb.Settings(console="off", silent=True),
        )
        _name(folder, "wandb", id)
        # Their own step must grow; ours goes back to the last save when a run resumes.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({**values, "step": step})

    def close(self) -> None:
        self.run.finish()


def _names(folder: Path) -> dict[str, str]:
    try:
        return json.loads((folder / NAMES).read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _name(folder: Path, tracker: str, id: str) -> None:
    (folder / NAMES).write_text(json.dumps({**_names(folder), tracker: id}) + "\n", encoding="utf-8")
