"""Options of commands that recognize audio: `--set decode.key=value`, and the recognizer with these settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samba_asr.decoding.confidence import Evidence
    from samba_asr.recognizer import Recognizer

MODEL_HELP = "model folder, the name of a shipped model: english (default), digits; or hf:ORG/NAME, from the hub"


SEARCH_HELP = "override search settings of the model, such as decode.search.beam=32 decode.search.rescore=0.3"


def add_settings(parser: argparse.ArgumentParser, help: str = SEARCH_HELP) -> None:
    """Add `--set key=value ...`, which may be repeated, as `overrides`."""
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], dest="overrides", metavar="key=value", help=help
    )


def load_recognizer(
    model: Path | str | None,
    device: str,
    overrides: Sequence[str] = (),
    sure: Callable[[Evidence], float] | None = None,
    *,
    needs: Collection[str] = (),
) -> Recognizer:
    """Load a model that stays until the process ends; arguments as for `Recognizer.load`."""
    from samba_asr import collector
    from samba_asr.recognizer import Recognizer

    found = Recognizer.load(model, device=device, settings=overrides, sure=sure, needs=needs)
    collector.settle()
    return found


def language_model(name: Path, key: str) -> Path:
    """Return a language model that is given by its own path, or by the name or folder of a recognizer that has one.

    key: `lm.path` or `lm.neural`, the recognizer's setting.  UserError for neither.
    """
    from samba_asr import config
    from samba_asr.config.decode import is_search_file
    from samba_asr.errors import UserError
    from samba_asr.hub import model_folder
    from samba_asr.models.lm_folder import is_lm_folder

    if name.is_file() if key == "lm.path" else is_lm_folder(name):
        return name
    folder = model_folder(name)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{name}: neither a language model nor a recognizer: there is no config.yaml")
    own = config.load(folder=folder).decode.file(key)
    if not own or not is_search_file(folder / own, key):
        raise UserError(f"{name}: this model has no such language model (decode.{key}={own or 'none'})")
    return folder / own


def texts(path: Path) -> list[str]:
    """Return the texts of a manifest of utterances (JSONL), or the lines of a text."""
    from samba_asr.data.manifest import read_manifest
    from samba_asr.text.lm import read_lines

    return [u.text for u in read_manifest(path)] if path.suffix == ".jsonl" else list(read_lines([path]))
