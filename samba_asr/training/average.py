"""Averaging of a run's checkpoints into a model folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from samba_asr import config as configs
from samba_asr.config import Config
from samba_asr.data.manifest import read_manifest
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.models.card import Card, inherited_license, origin, read_origin
from samba_asr.models.folder import copy_search_files, load_model, save_model
from samba_asr.text.tokenizer import Tokenizer, load_tokenizer
from samba_asr.text.units import same_pieces
from samba_asr.training import checkpoint


def average_run(
    run: Path,
    out: Path,
    *,
    best: int | None = None,
    last: int | None = None,
    files: Sequence[Path] = (),
    models: Sequence[Path] = (),
    dtype: torch.dtype = torch.float32,
    language: str = "",
    license: str = "",
) -> list[str]:
    """Write the mean of checkpoints of the run in folder `run` as the model folder `out`; return the names of its parts.

    best, last: number of checkpoints, by validation score or by time.  files: checkpoints.  Default: as many of the best as
    the run keeps.  models: model folders to average with the mean of the checkpoints (M. Wortsman et al., "Robust fine-tuning
    of zero-shot models", 2022).  dtype: of matrices in the file.
    language, license: for the model card (default: those of the models from which it is made).
    """
    path = Path(run) / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run}: no config.yaml here: is it the folder of a run?")
    config = configs.load(folder=run)
    for name, value in (("best", best), ("last", last)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: give 1 or more")
    files = list(files) or checkpoint.choose(run, best=best or config.train.keep_best, last=last or 0)
    model, tokenizer = AsrModel(config.model), load_tokenizer(run)
    try:
        model.load_state_dict(checkpoint.average(files))
    except RuntimeError as error:
        raise UserError(f"{files[0]}: does not fit the model of {path}: {' '.join(str(error).split())[:200]}") from None
    if models:
        average_with(model, tokenizer, models)
    Path(out).mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(config, decode=copy_search_files(config.decode, run, out))
    save_model(out, model, config, tokenizer, dtype, card(run, config, models, language, license))
    return [*(f.name for f in files), *map(str, models)]


def card(run: Path, config: Config, models: Sequence[Path], language: str = "", license: str = "") -> Card:
    """Return what is known of the average of a run with `models`: data, origin, language, license."""
    first, others = read_origin(Path(run)), [origin(Path(folder)) for folder in models]
    origins = [*([first] if first else []), *others]
    made_from = [first.name] if first else []
    if others:
        made_from.append(f"averaged with {', '.join(o.name for o in others)}")
    languages = {o.language for o in origins}
    return Card(
        trained_on=", ".join(_amount(path) for path in config.data.train),
        made_from=", ".join(made_from),
        language=language or (languages.pop() if len(languages) == 1 else ""),
        license=license or inherited_license(origins),
    )


def _amount(path: str) -> str:
    """Return the name of a manifest, with its utterances and hours if it can be read."""
    name = "/".join(Path(path).parts[-2:])
    try:
        utterances = read_manifest(Path(path))
    except (UserError, OSError):
        return name
    hours = sum(u.duration or 0.0 for u in utterances) / 3600
    return f"{name} ({len(utterances):,} utterances, {hours:.2f} h)"


def average_with(model: AsrModel, tokenizer: Tokenizer, folders: Sequence[Path]) -> None:
    """Replace the weights of `model` by the mean of them and those of `folders`.

    UserError for a model with another tokenizer or shape.
    """
    weights = [("the run", model.state_dict())]
    for folder in folders:
        other = load_model(folder)
        if not same_pieces(other.tokenizer, tokenizer):
            raise UserError(f"{folder}: its tokenizer differs from the run's, so their weights cannot be averaged")
        weights.append((str(folder), other.model.state_dict()))
    model.load_state_dict(checkpoint.mean(weights))
