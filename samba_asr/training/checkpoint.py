"""Files of a run: `last.pt`, from which it resumes, and `epoch-NNN.pt`, weights to evaluate and to average.

Both are plain trees of tensors, numbers, strings, lists and dicts, read with `torch.load(weights_only=True)`, and
replaced atomically: whatever happens, a file is the old one or the new one.

    last.pt        version, config, data, model, optimizer, ema, epoch, batch, step, elapsed, bad_steps, kept
    epoch-NNN.pt   version, config, model, epoch, step, wer (what the task validates by, lower is better: a WER or another)
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samba_asr.config import Config
from samba_asr.errors import UserError

VERSION = 1
LAST = "last.pt"

# What may change when a run is continued: how long it goes on, and what leaves the numbers alone.
MAY_CHANGE = (
    *("train.epochs", "train.max_steps", "train.max_minutes", "train.device", "train.save_minutes", "train.keep_best"),
    *("train.keep_last", "train.valid_every", "train.examples", "train.log_every", "data.workers", "data.cache"),
    "decode",
)


def save(path: Path, content: dict[str, Any]) -> None:
    """Write atomically and durably: a temporary file, fsync, rename, fsync of the folder."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as file:
        torch.save({"version": VERSION, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path) -> dict[str, Any]:
    """Tensors on the CPU; UserError if the file is not one of ours, or of another version."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint") from None
    except Exception as error:  # torch gives KeyError, EOFError, RuntimeError, UnpicklingError, ...
        raise UserError(f"{path}: not a checkpoint, or damaged ({type(error).__name__}); delete it") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise UserError(f"{path}: a checkpoint of version {version}, this is version {VERSION}; train again")
    return content


def config_dict(config: Config) -> dict[str, Any]:
    """The config as dicts, lists and scalars, which `load` accepts."""

    def plain(value):
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


def keep(kept: Sequence[dict], best: int, last: int) -> list[dict]:
    """Those of `kept` ({"file", "epoch", "wer"}, wer None where not validated) to keep: the best and the last ones."""
    ranked = rank(kept)[:best]
    recent = sorted(kept, key=lambda k: k["epoch"])[-last:] if last > 0 else []
    return [k for k in kept if k in ranked or k in recent]


def rank(kept: Sequence[dict]) -> list[dict]:
    """The validated ones, lowest WER first; of equals, the later first."""
    return sorted((k for k in kept if k["wer"] is not None), key=lambda k: (k["wer"], -k["epoch"]))


def choose(folder: Path, *, best: int = 0, last: int = 0) -> list[Path]:
    """The `best` checkpoints by validation WER, or the `last` ones, of a run's folder; UserError if there are none."""
    files = sorted(folder.glob("epoch-*.pt"))
    if not files:
        raise UserError(f"{folder}: no epoch-*.pt here; is it the folder of a run that has finished an epoch?")
    if last > 0:
        return files[-last:]
    kept = [{"file": f, "epoch": c["epoch"], "wer": c["wer"]} for f in files for c in [load(f)]]
    ranked = rank(kept)
    if not ranked:
        raise UserError(f"{folder}: no checkpoint has a validation WER; use --last")
    return [k["file"] for k in ranked[:best]]


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
