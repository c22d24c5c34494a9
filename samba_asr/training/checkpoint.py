"""Files of a run: `last.pt`, from which it resumes, and `epoch-NNN.pt`, weights to evaluate and to average.

Both are plain trees of tensors, numbers, strings, lists and dicts, read with `torch.load(weights_only=True)`, and
replaced atomically: whatever happens, a file is the old one or the new one.  Each is a zip archive, whose checksums are
compared before it is read (torch itself does not).  `before-last.pt` is the `last.pt` before.

    last.pt        version, config, data, objective, optimizer, ema, epoch, batch, step, elapsed, bad_steps, kept
    epoch-NNN.pt   version, config, model, epoch, step, score

`objective` are the weights of the whole objective, `model` those of its net alone, named as in a model folder.  `score` is a
`Score` as a dict, None where an epoch was not validated.
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
from samba_asr.training.score import Score

logger = logging.getLogger(__name__)

VERSION = 2
LAST = "last.pt"
BEFORE = "before-last.pt"  # the last.pt before it, to continue from where that is damaged

# What may change when a run is continued: how long it goes on, and what leaves the numbers alone.
MAY_CHANGE = (
    *("train.epochs", "train.max_steps", "train.max_minutes", "train.device", "train.save_minutes", "train.keep_best"),
    *("train.keep_last", "train.valid_every", "train.examples", "train.log_every", "data.workers", "data.cache"),
    "decode",
)


class Damaged(UserError):
    """A file that is no checkpoint, or not whole."""


def save(path: Path, content: dict[str, Any], before: Path | None = None) -> None:
    """Write atomically and durably: a temporary file, fsync, rename, fsync of the folder.

    before: where the file that is replaced goes.  OSError, and no trace is left, where the disk is full.
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
    except RuntimeError as error:  # its writer does not say that the disk is full
        file.flush()
        raise OSError(f"{file.name}: cannot be written ({' '.join(str(error).split())[:100]})") from error


def load_last(folder: Path) -> dict[str, Any] | None:
    """What a run resumes from: last.pt, or the one before if that is damaged; None in a folder without either."""
    last, before = folder / LAST, folder / BEFORE
    if not last.exists() and not before.exists():
        return None
    try:
        return load(last)
    except Damaged as error:
        if not before.exists():
            raise
        content = load(before)
        logger.warning("%s; going on from %s, of step %s", error, before.name, content.get("step"))
        return content


def load(path: Path) -> dict[str, Any]:
    """Tensors on the CPU; UserError if the file is not one of ours, or of another version; Damaged if it is not whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                raise ValueError(f"the checksum of {bad} is another")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Damaged(f"{path}: there is no such checkpoint") from None
    except Exception as error:  # torch gives KeyError, EOFError, RuntimeError, UnpicklingError, ...
        why = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise Damaged(f"{path}: not a checkpoint, or damaged ({why}); delete it") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version == 1:
        return _from_version_1(path, content)
    if version != VERSION:
        raise UserError(f"{path}: a checkpoint of version {version}, this is version {VERSION}; train again")
    return content


def _from_version_1(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """An epoch-NNN.pt of a run of before, whose model held a teacher's pupil too; UserError for its last.pt."""
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
    """The config as dicts, lists and scalars, which `load` accepts."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value

    return plain(dataclasses.asdict(config))


def check_same_config(saved: dict[str, Any], config: Config, folder: Path) -> None:
    """UserError naming the first key whose value differs from the run's in `folder`, unless it is in MAY_CHANGE.

    A key that is younger than the run counts as at its default; one that is no longer known does not count.
    """
    old, new = {**_flat(config_dict(Config())), **_flat(saved)}, _flat(config_dict(config))
    for key in new:
        if any(key == k or key.startswith(f"{k}.") for k in MAY_CHANGE):
            continue
        if old[key] != new[key]:
            raise UserError(
                f"{folder} holds a run with {key}={old[key]}, not {new[key]}: "
                f"give that value to continue it, or train in another folder"
            )


class Kept(NamedTuple):
    """An epoch-NNN.pt."""

    file: str  # its name
    epoch: int
    score: Score | None  # None where it was not validated

    def plain(self) -> dict[str, Any]:
        """As dicts and scalars, which `load` accepts."""
        return {**self._asdict(), "score": plain_score(self.score)}

    @classmethod
    def of(cls, content: dict[str, Any], file: str | None = None) -> Kept:
        """From `plain`, or from the content of the `file`."""
        score = content["score"]
        return cls(file or content["file"], content["epoch"], Score(**score) if score else None)


def plain_score(score: Score | None) -> dict[str, Any] | None:
    return dataclasses.asdict(score) if score else None


def keep(kept: Sequence[Kept], best: int, last: int) -> list[Kept]:
    """Those of `kept` to keep: the best and the last ones."""
    ranked = rank(kept)[:best]
    recent = sorted(kept, key=lambda k: k.epoch)[-last:] if last > 0 else []
    return [k for k in kept if k in ranked or k in recent]


def rank(kept: Sequence[Kept]) -> list[Kept]:
    """The validated ones, best score first; of equals, the later first."""
    validated = [(k.score.rank, -k.epoch, k) for k in kept if k.score is not None]
    return [k for *_, k in sorted(validated, key=lambda v: v[:2])]


def choose(folder: Path, *, best: int = 0, last: int = 0) -> list[Path]:
    """The `best` checkpoints by validation score, or the `last` ones, of a run's folder; UserError if there are none."""
    files = sorted(folder.glob("epoch-*.pt"))
    if not files:
        raise UserError(f"{folder}: no epoch-*.pt here; is it the folder of a run that has finished an epoch?")
    if last > 0:
        return files[-last:]
    ranked = rank([Kept.of(load(f), f.name) for f in files])
    if not ranked:
        raise UserError(f"{folder}: no checkpoint has a validation score; use --last")
    return [folder / k.file for k in ranked[:best]]


def average(files: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the models in `files`."""
    if not files:
        raise UserError("give at least one checkpoint to average")

    def weights(file: Path) -> dict[str, Tensor]:
        content = load(file)
        if "model" not in content:
            raise UserError(f"{file}: no weights in this checkpoint")
        return content["model"]

    return mean((str(file), weights(file)) for file in files)


def mean(models: Iterable[tuple[str, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """The mean of weights, each with the name of where they come from, summed in float64; whole numbers are the first's.

    UserError for weights that are not of the first's names and shapes.
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


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
