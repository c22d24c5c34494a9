"""The model folder.

config.yaml         the whole configuration (samba_asr.config), with its version
model.safetensors   weights, float32 or bfloat16; it cannot contain code
tokenizer.*         samba_asr.text.tokenizer
README.md           model card: data, error rates, language, date, license (samba_asr.models.card)
results.json        scores by name, each with its test set and decoding (`samba-asr decode --record NAME`)
confidence.json     calibration of confidences (`samba-asr calibrate`); with --graph also lattice.safetensors, a small network
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from samba_asr import collector
from samba_asr.config import SEARCH_FILES, VERSIONS, Config, DecodeConfig, is_search_file, load, save
from samba_asr.errors import UserError
from samba_asr.models import weights
from samba_asr.models.asr import AsrModel
from samba_asr.models.box import is_boxed
from samba_asr.models.card import Card, update_rates, write_card
from samba_asr.models.loaded import LoadedModel, search_file
from samba_asr.text.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "LoadedModel",
    "check_version",
    "copy_search_files",
    "load_model",
    "read_encoder",
    "record_result",
    "save_encoder",
    "save_model",
    "search_file",
]

NEURAL_LM = "mamba_lm"  # folder of a Mamba language model in the folder of a recognizer


def save_model(
    folder: Path,
    model: AsrModel,
    config: Config,
    tokenizer: Tokenizer,
    dtype: torch.dtype = torch.float32,
    card: Card | None = None,
) -> None:
    """Write a model folder, without scores and calibration.  Existing files are replaced, except a README.md of one's own.

    dtype: of matrices in the file.  Vectors keep their dtype: they are small, and decays and steps must be exact.
    card: what it says of data and origin.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # A later training run from this model chooses its own teacher, weights of manifests and channels.
    model_config, data, augment, loss = config.model, config.data, config.augment, config.loss
    config = replace(
        config,
        model=replace(model_config, teacher=0),
        data=replace(data, teacher="", weights=()),
        augment=replace(augment, channels="", channel_prob=0.0),
        loss=replace(loss, teacher=0.0),
    )
    save(config, folder / "config.yaml")
    weights.save_weights(model, folder / "model.safetensors", dtype)
    tokenizer.save(folder)
    (folder / "results.json").write_text("{}\n")
    for name in ("confidence.json", "lattice.safetensors"):  # of other weights
        (folder / name).unlink(missing_ok=True)
    data = ", ".join(Path(p).stem for p in config.data.train)
    card = card or Card()
    card = replace(card, trained_on=card.trained_on or data, date=card.date or datetime.date.today().isoformat())
    write_card(folder, card.text(model, config))


def copy_search_files(decode: DecodeConfig, source: Path, target: Path) -> DecodeConfig:
    """Copy the files named in `decode`, such as language models, into the folder `target`; return `decode` with the new names.

    Relative names are relative to `source`.  Missing files are skipped, and keep their names.  A file with an absolute path is
    copied under its own name, unless a model folder needs that name for itself or another file has it.
    """
    names: dict[str, str] = {}
    for key in SEARCH_FILES:
        name = decode.file(key)
        path = source / name
        if not name or not is_search_file(path, key):
            continue
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        names[key] = name if inside else _local_name(key, path, names.values())
        place = target / names[key]
        if place.exists() and (inside or place.samefile(path)):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, place, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, place)
    return decode.with_files(names)


def _local_name(key: str, path: Path, taken: Collection[str]) -> str:
    if key == "lm.neural":
        return NEURAL_LM
    needed = ("config.yaml", "README.md", "results.json", "confidence.json", "lattice.safetensors", "lexicon.txt")
    if path.name in (*needed, *taken) or path.stem in ("tokenizer", "model", "encoder"):
        return f"{SEARCH_FILES[key]}.{path.name}"
    return path.name


def save_encoder(folder: Path, acoustic: nn.Module, config: Config) -> None:
    """Write config.yaml and encoder.safetensors for `samba-asr train --init-encoder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save(config, folder / "config.yaml")
    weights.save_weights(acoustic, folder / "encoder.safetensors")


def read_encoder(folder: Path, model: AsrModel) -> list[str]:
    """Load the encoder of the folder into `model`; return the names of the weights that the file lacks, which do not change.

    UserError if there is none, or if its sizes differ.
    """
    path = Path(folder) / "encoder.safetensors"
    if not path.is_file():
        raise UserError(
            f"{folder} holds no pretrained encoder: it has no {path.name}: write one with samba-asr pretrain"
        )
    check_version(path.with_name("config.yaml"))
    shapes = weights.header(path)
    # Self-conditioning needs texts, so it is not pretrained.  Fusion can start afterwards, as nearly the last layer alone.
    weights.check(path, shapes, model.acoustic, may_lack=lambda name: ".conditioning." in name or ".fusion." in name)
    missing = [name for name in model.acoustic.state_dict() if name not in shapes]
    weights.load_into(path, model.acoustic, missing)
    return missing


def record_result(folder: Path, name: str, scores: dict[str, Any]) -> None:
    """Write `scores` under `name` to the folder's results.json, and to its card.  Older scores of that name are replaced."""
    path = Path(folder) / "results.json"
    try:
        results = json.loads(path.read_text()) if path.exists() else {}
        results[name] = scores
        part = path.with_name("results.json.part")
        part.write_text(json.dumps(results, indent=2) + "\n")
        part.replace(path)
        update_rates(Path(folder), results)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot record {name!r} there ({error})") from None


def load_model(folder: Path, device: torch.device | str = "cpu") -> LoadedModel:
    """Read a model folder.  UserError for a missing file, another version, or weights that do not fit."""
    folder = Path(folder)
    for name in ("config.yaml", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a model folder: it has no {name}")
    check_version(folder / "config.yaml")
    config = load(folder=folder)
    with collector.paused():
        tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size != config.model.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} units, config.yaml says {config.model.vocab_size}: "
            "the files are of two models"
        )
    layers = config.model.layers + config.model.decoder.layers
    model = weights.build_and_load(
        folder / "model.safetensors", lambda: AsrModel(config.model), layers, trusted=is_boxed(folder)
    )
    return LoadedModel(model.to(device).eval(), tokenizer, config, folder)


def check_version(path: Path) -> None:
    """Raise UserError unless the config.yaml at `path` has a version that can be read."""
    from omegaconf import OmegaConf

    try:
        tree = OmegaConf.load(path)
        version = tree.get("version")  # pyright: ignore[reportArgumentType]  (a list raises, too)
    except Exception as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())[:200]}") from None
    if version not in VERSIONS:
        raise UserError(
            f"{path.parent} is a model folder of version {version}; this samba_asr reads versions "
            f"{VERSIONS[0]} to {VERSIONS[-1]}: install the samba_asr that wrote it, or train the model again"
        )
