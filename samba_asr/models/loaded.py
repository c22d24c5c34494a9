"""A model as read from a folder, and the files that its settings name.  It needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from samba_asr.config import Config, is_search_file
from samba_asr.errors import UserError
from samba_asr.text.units import Tokenizer

if TYPE_CHECKING:
    from samba_asr.models.asr import AsrModel


class LoadedModel(NamedTuple):
    """A model, as read from its folder."""

    model: (
        AsrModel  # in evaluation mode; None for an exported model (samba_asr.models.exported), which has graphs alone
    )
    tokenizer: Tokenizer
    config: Config
    folder: Path | None = None  # where it came from


def search_file(name: str, loaded: LoadedModel, key: str) -> Path:
    """Return the file or folder named by `decode.{key}`.

    A name from the model's own configuration is looked up only in the model's folder.  Another relative name was given by the
    user: it is looked up in the current folder first, then in the model's.  UserError if there is no such file.
    """
    own = loaded.folder is not None and name == loaded.config.decode.file(key)
    places = [] if own else [Path(name)]
    places += [loaded.folder / name] if loaded.folder else []
    for place in places:
        if is_search_file(place, key):
            return place
    kind = "not the folder of a Mamba language model: there is none" if key == "lm.neural" else "there is no such file"
    where = f"in the model's folder {loaded.folder}" if own else "neither here nor in the model's folder"
    raise UserError(f"decode.{key}={name}: {kind}, {where}")
