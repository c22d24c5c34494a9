"""Small networks, each in one safetensors file: tensors, with sizes and vocabularies as text in its metadata."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from samba_asr.errors import UserError


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write tensors on the CPU and their metadata; folders are made."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: x.contiguous() for name, x in tensors.items()}, path, dict(about))
    path.chmod(0o644)  # safetensors makes it readable only by its owner; a server may run as another user


@contextlib.contextmanager
def opened(path: Path, of: str, trained_by: str) -> Iterator[tuple[dict[str, str], dict[str, Tensor]]]:
    """Yield the metadata and the tensors, as float32.  The block builds the network from them.

    UserError for a missing file, and for one from which the block cannot build the network.
    of: what the model is of, such as punctuation.  trained_by: the command that makes such a file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (no mapping)
            about = file.metadata() or {}
        yield about, tensors
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a model of {of} ({reason}): train one with {trained_by}") from None
