"""Small networks, each in one safetensors file: tensors, with sizes and vocabularies as text in its metadata."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samba_asr.errors import UserError
from samba_asr.tensor_file import parse

if TYPE_CHECKING:
    from torch import Tensor


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
    import torch

    with refused(path, of, trained_by):
        about, found = arrays(path)
        yield about, {name: torch.from_numpy(x.astype(np.float32)) for name, x in found.items()}


@contextlib.contextmanager
def refused(path: Path, of: str, trained_by: str) -> Iterator[None]:
    """Turn an error inside the block into a UserError; arguments as of `opened`."""
    try:
        yield
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a model of {of} ({reason}): train one with {trained_by}") from None


def arrays(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Return the metadata and the tensors, of their own types.  OSError for a missing file; other errors as of `parse`."""
    return parse(path.read_bytes())
