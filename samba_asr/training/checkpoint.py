"""Files of a run: `last.pt`, from which it resumes, and `epoch-NNN.pt`, weights to evaluate and to average.

Both are plain trees of tensors, numbers, strings, lists and dicts, read with `torch.load(weights_only=True)`.  They are
replaced atomically: at any time, a file is the old one or the new one.  Each is a zip archive, whose checksums are
compared before it is read (torch itself does not).  `before-last.pt` is the `last.pt` before.

    last.pt        version, config, data, objective, optimizer, ema, epoch, batch, step, elapsed, bad_steps, kept
    epoch-NNN.pt   version, config, model, epoch, step, score

A sharded run has its tensors in a folder beside last.pt (`samba_asr.training.parts`).
`objective` has the weights of the whole objective, `model` those of its net, named as in a model folder.  `score` is a
`Score` as a dict, or None if the epoch was not validated.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from samba_asr.config import Config
from samba_asr.errors import UserError
from samba_asr.training import parts
from samba_asr.training.distributed import Ranks
from samba_asr.training.score import Score

logger = logging.getLogger(__name__)

VERSION = 2
LAST = "last.pt"
ONE = Ranks(torch.device("cpu"))
BEFORE = "before-last.pt"  # the last.pt before it, to continue from where that is damaged

# Settings that may change in a continued run: its length, settings that do not affect the weights, and the number of batches of
# a step, which with another number of processes keeps the size of a step.
MAY_CHANGE = (
    *("train.epochs", "train.max_steps", "train.max_minutes", "train.device", "train.save_minutes", "train.keep_best"),
    *("train.keep_last", "train.valid_every", "train.examples", "train.log_every", "data.workers", "data.cache"),
    *("train.tracker", "train.shard", "optim.accumulate"),
    "decode",
)


class Damaged(UserError):
    """Error for a file that is not a checkpoint, or is incomplete."""


def save(path: Path, content: dict[str, Any], before: Path | None = None) -> None:
    """Write atomically and durably: a temporary file, fsync, rename, fsync of the folder.

    before: new place of the file that is replaced.  OSError if the disk is full; then no partial file is left.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as file:
            _write({"version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        if before is not None and path.exists():
            os.replace(path, before)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(content: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # torch's writer does not report a full disk
        file.flush()
        raise OSError(f"{file.name}: cannot be written ({' '.join(str(error).split())[:100]})") from error


def load_last(folder: Path, ranks: Ranks = ONE) -> dict[str, Any] | None:
    """Load the checkpoint to resume from: last.pt, or the previous one if it is damaged; None if there is neither.

    ranks: all of them call it.  The tensors of a sharded run are checked, and still to be loaded (`parts.load`).
    """
    last, before = folder / LAST, folder / BEFORE
    if not last.exists() and not before.exists():
        return None
    try:
        return _whole(load(last), folder, ranks)
    except Damaged as error:
        if not before.exists():
            raise
        content = _whole(load(before), folder, ranks)
        logger.warning("%s; going on from %s, of step %s", error, before.name, content.get("step"))
        return content


def _whole(content: dict[str, Any], folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Return the content of a last.pt; Damaged if a file that belongs to it is not there, or not as it was written."""
    if wrong := parts.damaged(folder, content, ranks):
        raise Damaged(f"{folder / wrong}: missing, or damaged")
    return content


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint, with tensors on the CPU.  UserError for another file or an unknown version; Damaged if incomplete."""
    try:
        with zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                raise ValueError(f"the checksum of {bad} is another")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Damaged(f"{path}: there is no such checkpoint: check the name") from None
    except Exception as error:  # torch raises KeyError, EOFError, RuntimeError, UnpicklingError, ...
        why = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise Damaged(f"{path}: not a checkpoint, or damaged ({why}): delete it") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version == 1:
        return _from_version_1(path, content)
    if version != VERSION:
        raise UserError(f"{path}: a checkpoint of version {version}, this samba_asr reads {VERSION}: train again")
    return content


def _from_version_1(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Convert an epoch-NNN.pt of version 1, whose model included a teacher's pupil; UserError for a last.pt."""
    if "optimizer" in content:
        raise UserError(
            f"{path}: a run of an older samba_asr (checkpoints of version 1, this is version {VERSION}) cannot continue; its "
            "epoch-*.pt can be averaged (samba-asr average), and training can go on from that (samba-asr train --init)"
        )
    content = dict(content, version=VERSION)
    wer = content.pop("wer", None)
    content["score"] = None if wer is None else dataclasses.asdict(Score("score", wer))
    content["model"] = {k: v for k, v in content.get("model", {}).items() if not k.startswith("pupil.")}
    return content


def config_dict(config: Config) -> dict[str, Any]:
    """Convert a configuration to dicts, lists and scalars, which `load` accepts."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value

    return plain(dataclasses.asdict(config))


def check_same_config(saved: dict[str, Any], config: Config, folder: Path) -> None:
    """Raise UserError with the first key, not in MAY_CHANGE, whose value differs from that of the run in `folder`.

    A key that is newer than the run counts with its default.  A key that no longer exists is ignored.
    """
    old, new = {**flat(config_dict(Config())), **flat(saved)}, flat(config_dict(config))
    for key in new:
        if any(key == k or key.startswith(f"{k}.") for k in MAY_CHANGE):
            continue
        if old[key] != new[key]:
            raise UserError(
                f"{folder} holds a run with {key}={old[key]}, not {new[key]}: "
                f"give that value to continue it, or train in another folder"
            )


class Kept(NamedTuple):
    """Entry for an epoch-NNN.pt file."""

    file: str  # its name
    epoch: int
    score: Score | None  # None without validation

    def plain(self) -> dict[str, Any]:
        """Convert to dicts and scalars, which `load` accepts."""
        return {**self._asdict(), "score": plain_score(self.score)}

    @classmethod
    def of(cls, content: dict[str, Any], file: str | None = None) -> Kept:
        """Make it from the result of `plain`, or from the content of `file`."""
        score = content["score"]
        return cls(file or content["file"], content["epoch"], Score(**score) if score else None)


def plain_score(score: Score | None) -> dict[str, Any] | None:
    return dataclasses.asdict(score) if score else None


def keep(kept: Sequence[Kept], best: int, last: int) -> list[Kept]:
    """Return the best and the last checkpoints of `kept`."""
    ranked = rank(kept)[:best]
    recent = sorted(kept, key=lambda k: k.epoch)[-last:] if last > 0 else []
    return [k for k in kept if k in ranked or k in recent]


def rank(kept: Sequence[Kept]) -> list[Kept]:
    """Return the validated checkpoints, best score first; of equal ones, the later first."""
    validated = [(k.score.rank, -k.epoch, k) for k in kept if k.score is not None]
    return [k for *_, k in sorted(validated, key=lambda v: v[:2])]


def choose(folder: Path, *, best: int = 0, last: int = 0) -> list[Path]:
    """Return the `best` checkpoints of a run's folder by validation score, or the `last` ones; UserError without any."""
    files = sorted(folder.glob("epoch-*.pt"))
    if not files:
        raise UserError(f"{folder}: no epoch-*.pt here: is it the folder of a run that has finished an epoch?")
    if last > 0:
        return files[-last:]
    ranked = rank([Kept.of(load(f), f.name) for f in files])
    if not ranked:
        raise UserError(f"{folder}: no checkpoint has a validation score: use --last")
    return [folder / k.file for k in ranked[:best]]


def average(files: Sequence[Path]) -> dict[str, Tensor]:
    """Return the mean of the models in `files`."""
    if not files:
        raise UserError("give at least one checkpoint to average")

    def weights(file: Path) -> dict[str, Tensor]:
        content = load(file)
        if "model" not in content:
            raise UserError(f"{file}: no weights in this checkpoint")
        return content["model"]

    return mean((str(file), weights(file)) for file in files)


def mean(models: Iterable[tuple[str, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Return the mean of (origin, weights) pairs, computed in float64.  Integer tensors are those of the first.

    UserError for weights whose names or shapes differ from those of the first.
    """
    total: dict[str, Tensor] = {}
    first: dict[str, Tensor] = {}
    begin, count = "", 0
    for where, model in models:
        if not count:
            begin, first = where, model
        if model.keys() != first.keys() or any(model[k].shape != first[k].shape for k in model):
            raise UserError(f"{where}: not the same model as {begin}")
        count += 1
        for name, x in model.items():
            if x.is_floating_point():
                total[name] = total[name] + x.double() if name in total else x.double()
    return {k: (total[k] / count).to(x.dtype) if k in total else x for k, x in first.items()}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings of a configuration's dicts by their full names, such as train.seed."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found
