"""Models on a hub: `Recognizer.load("hf:org/name")`, `hf:org/name@revision`, and `samba-asr push`, by `huggingface_hub`.

A download takes only the files of `KNOWN`, none of which can contain code, and none beyond its size.  The package keeps them in
its own cache, which also serves without a network.  Revisions are branches, tags or commits; a commit never changes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from samba_asr import config as configs
from samba_asr.config import SEARCH_FILES, Config
from samba_asr.decoding.ngram import is_kenlm
from samba_asr.errors import UserError, missing_extra
from samba_asr.models.box import box_folder
from samba_asr.models.card import origin

PREFIX = "hf:"
ADDRESS = re.compile(r"(?:hf:)?([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w./-]{1,100}))?", re.ASCII)
MIB = 1 << 20
KNOWN = {
    "config.yaml": MIB,
    "model.safetensors": 8192 * MIB,
    "tokenizer.json": 64 * MIB,
    "tokenizer.model": 64 * MIB,
    "lexicon.txt": 512 * MIB,
    "words.txt": 512 * MIB,
    "hotwords.txt": 16 * MIB,
    "*.ngram": 8192 * MIB,
    "confidence.json": MIB,
    "results.json": 16 * MIB,
    "README.md": MIB,
    "LICENSE*": MIB,
    "mamba_lm/config.yaml": MIB,
    "mamba_lm/model.safetensors": 8192 * MIB,
    "mamba_lm/tokenizer.json": 64 * MIB,
    "mamba_lm/tokenizer.model": 64 * MIB,
}
"""Files of a model folder and their sizes in bytes, at most."""
MOST = 100  # files of a model
LANGUAGES = {"English": "en"}
LICENSES = {name: name for name in ("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "apache-2.0", "mit")}
LICENSES |= {"cc0": "cc0-1.0"}


class Address(NamedTuple):
    repo: str  # org/name
    revision: str | None


def is_address(model: Path | str | None) -> bool:
    """Return whether a model's name is an address on the hub."""
    return model is not None and Path(model).as_posix().startswith(PREFIX)


def parse(text: Path | str) -> Address:
    """Parse `hf:org/name` or `hf:org/name@revision`.  UserError for anything else."""
    text = Path(text).as_posix()
    found = ADDRESS.fullmatch(text)
    if not found or ".." in text:
        raise UserError(f"{text}: an address on the hub is hf:ORG/NAME, or hf:ORG/NAME@REVISION")
    return Address(*found.groups())


def model_folder(model: Path | str | None = None, writes: str = "") -> Path:
    """Return the folder of a model: an address on the hub, or what `box_folder` takes.

    writes: the caller writes into it, and this names the option or command: UserError for an address, whose files are a cache.
    """
    if model is None or not is_address(model):
        return box_folder(model)
    if writes:
        raise UserError(
            f"{model}: {writes} writes into the model's folder, and this is a download: give a folder of yours"
        )
    return fetch(model)


def fetch(model: Path | str) -> Path:
    """Download a model, or find it in the cache; return its folder.

    UserError if there is none, or if it is no model of this package, or too large.
    """
    address, library = parse(model), hub()
    where: dict[str, Any] = {"revision": address.revision, "endpoint": os.environ.get("HF_ENDPOINT")}
    download = library.snapshot_download
    try:
        try:
            planned = download(address.repo, allow_patterns=list(KNOWN), dry_run=True, **where)
        except library.errors.DryRunError:  # no network: the cache knows
            planned = []
        _check_sizes(model, {file.filename: file.file_size for file in planned})
        folder = Path(download(address.repo, allow_patterns=list(KNOWN), **where))
    except library.errors.LocalEntryNotFoundError as error:
        raise UserError(f"{model}: the hub does not answer, and the model is not in the cache") from error
    except (library.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"{model}: {' '.join(str(error).split())[:300]}") from error
    _check_names(model, folder)
    return folder


def push(model: Path | str | None, to: str, license: str = "", private: bool = False) -> str:
    """Upload the known files of a model folder, or of a shipped model, with a card for the hub; return its address there.

    to: `org/name`, or `org/name@branch` for a branch that exists.  license: an identifier of the hub, such as cc-by-4.0.
    UserError if it is no model folder, or if the hub refuses.
    """
    folder, address, library = box_folder(model), parse(to), hub()
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder} is not a model folder: it has no model.safetensors")
    config = _check_names(folder, folder)
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    files = {name: path for name, path in found.items() if _limit(name) is not None}
    for key in SEARCH_FILES:
        name = config.decode.file(key)
        if name and name not in files and not any(file.startswith(f"{name}/") for file in files):
            raise UserError(f"{folder}: decode.{key}={name} is not among the files of a model: {', '.join(KNOWN)}")
    files.pop("README.md", None)
    add = library.CommitOperationAdd
    changes = [add(path_in_repo=name, path_or_fileobj=str(path)) for name, path in files.items()]
    changes.append(add(path_in_repo="README.md", path_or_fileobj=card(folder, license).encode()))
    api = library.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        api.create_repo(address.repo, private=private, exist_ok=True)
        done = api.create_commit(
            address.repo, changes, commit_message="Upload by samba-asr push", revision=address.revision
        )
    except (library.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"{to}: {' '.join(str(error).split())[:300]}") from error
    return str(done.commit_url)


def card(folder: Path, license: str = "") -> str:
    """Return the folder's model card with the YAML head that a hub reads: task, language, license and word error rates."""
    text = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").is_file() else ""
    if text.startswith("---\n"):
        return text
    library = hub()
    results = json.loads((folder / "results.json").read_text()) if (folder / "results.json").is_file() else {}
    task = "automatic-speech-recognition"
    rates = [
        library.EvalResult(task_type=task, dataset_type=name, dataset_name=name, metric_type="wer", metric_value=wer)
        for name, wer in ((name, round(found["wer"], 2)) for name, found in results.items() if "wer" in found)
    ]
    stated = origin(folder)
    about = library.ModelCardData(
        language=LANGUAGES.get(stated.language, stated.language if len(stated.language) in (2, 3) else None),
        license=license or license_id(stated.license),
        library_name="samba_asr",
        pipeline_tag=task,
        tags=["mamba", "streaming"],
        model_name=folder.name if rates else None,
        eval_results=rates or None,
    )
    return f"---\n{about.to_yaml()}\n---\n\n{text}"


def license_id(text: str) -> str | None:
    """Return the hub's identifier of a license as a card states it (`CC BY 4.0, ...`); None if it is not a common one."""
    name = re.split("[,;]", text)[0].strip().lower().replace(" ", "-")
    return LICENSES.get(name)


def hub() -> Any:
    """Import the package."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hub") from error
    return huggingface_hub


def _limit(name: str) -> int | None:
    """Return the largest size of a file of this name; None if it is not known."""
    return next((most for pattern, most in KNOWN.items() if fnmatch(name, pattern)), None)


def _check_sizes(model: Path | str, sizes: dict[str, int]) -> None:
    if len(sizes) > MOST:
        raise UserError(f"{model}: {len(sizes)} files are more than a model's {MOST}")
    for name, size in sizes.items():
        if size > (_limit(name) or 0):
            raise UserError(f"{model}: {name} has {size} bytes, which is too large")


def _check_names(model: Path | str, folder: Path) -> Config:
    """Return the configuration.  UserError if it is missing, names files outside the folder, or files that other code reads."""
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{model} is no model of samba_asr: it has no config.yaml")
    config = configs.load(folder=folder)
    names: Iterable[str] = [config.decode.file(key) for key in SEARCH_FILES]
    for name in (*names, config.decode.runtime.graphs):
        if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name:
            raise UserError(f"{model}: its config.yaml names {name}, which is outside of the model")
    if config.decode.runtime.graphs:
        raise UserError(f"{model}: its config.yaml names graphs, which a model from a hub may not have")
    for path in folder.glob("*.ngram"):
        if is_kenlm(path):
            raise UserError(
                f"{model}: {path.name} is KenLM's binary, which is not safe to read: pack it (samba-asr lm pack)"
            )
    return config
