"""The models shipped with the package (the "box"), by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from samba_asr.errors import UserError

DEFAULT = "english"


def _box() -> Path:
    return Path(str(resources.files("samba_asr"))) / "box"


def is_boxed(folder: Path) -> bool:
    """Return whether a model folder is one of those shipped with the package, and therefore trusted."""
    return folder.resolve().parent == _box().resolve()


def box_folder(model: Path | str | None = None) -> Path:
    """Return the folder of a model, given by its path or as the name of a shipped model; None: the default one."""
    if model is not None and (Path(model).exists() or len(Path(model).parts) != 1):
        return Path(model)
    box = _box()
    names = sorted(folder.parent.name for folder in box.glob("*/config.yaml"))
    name = DEFAULT if model is None else str(model)
    if name in names:
        return box / name
    if model is None:
        raise UserError(
            "this installation has no shipped model: name one with --model FOLDER (egs/digits/run.sh trains one)"
        )
    raise UserError(f"{model}: neither a folder nor a shipped model ({', '.join(names) or 'there is none'})")
