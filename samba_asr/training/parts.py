"""Checkpoints of sharded models, in parts: each process writes the shards that it holds (torch.distributed.checkpoint).

So no process needs memory for the whole state.  What is large is in a folder beside last.pt:

    last-N/__R_I.distcp   pieces of tensors, written by process R
    last-N/.metadata      the shape of each tensor, and where its pieces are
    last.pt               all else, and `parts`: folder (its name) and files (name -> [bytes, CRC-32])

last.pt is written after the folder, so a save counts as a whole or not at all.  Any number of processes, sharded or not, can
load it; each reads the pieces that it needs.  Names of tensors are `objective.NAME`, `optimizer.NUMBER.NAME`, `ema.NAME`.
"""

from __future__ import annotations

import enum
import pickle
import re
import shutil
import warnings
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samba_asr.training.distributed import Ranks

PARTS = "parts"  # key of last.pt
METADATA = {  # module -> what torch puts into .metadata
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata"),
        *("ChunkStorageMetadata", "BytesStorageMetadata", "_MEM_FORMAT_ENCODING"),
    ),
    "pathlib": ("Path", "PosixPath", "WindowsPath"),
}


def save(folder: Path, content: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Write the tensors of `content` into a new folder in `folder`; return what is left for last.pt.

    content: with objective, optimizer (a state_dict) and ema.  Every process calls it.  OSError if a process cannot write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save as write

    state = content["optimizer"]["state"]
    tensors = {f"objective.{name}": x for name, x in content["objective"].items()}
    tensors |= {f"optimizer.{i}.{name}": x for i, values in state.items() for name, x in values.items()}
    tensors |= {f"ema.{name}": x for name, x in (content["ema"] or {}).items()}
    (number,) = ranks.sum([1 + max(map(_number, folders(folder)), default=0) if ranks.rank == 0 else 0])
    place = folder / f"last-{round(number)}"
    try:
        write(tensors, storage_writer=FileSystemWriter(place, sync_files=True))
    except CheckpointException as error:
        raise OSError(f"{place}: {_reason(error)}") from error
    found = {path.name: [path.stat().st_size, _checksum(path)] for path in _share(place.iterdir(), ranks)}
    files = {name: value for each in ranks.gather(found) for name, value in each.items()}
    rest = {"objective": {}, "optimizer": {**content["optimizer"], "state": {}}, "ema": None}
    return {**content, **rest, PARTS: {"folder": place.name, "files": files}}


def damaged(folder: Path, content: Mapping[str, Any], ranks: Ranks) -> str:
    """Return the first file of a save that is missing or not as it was written, or "".  Every process calls it."""
    if PARTS not in content:
        return ""
    place, files = folder / content[PARTS]["folder"], content[PARTS]["files"]
    wrong = [path.name for path in _share((place / name for name in files), ranks) if not _is(path, *files[path.name])]
    return next((f"{place.name}/{name}" for each in ranks.gather(wrong) for name in each), "")


def load(folder: Path, content: Mapping[str, Any], net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return `content` with objective, optimizer and ema in it, divided as the parameters of `net` are now.

    net: the objective; optimizer: of it.  A content without `parts` is returned as it is.
    """
    from torch.distributed.checkpoint.state_dict_loader import load as read

    if PARTS not in content:
        return dict(content)
    reader = _reader(folder / content[PARTS]["folder"])
    like: dict[str, Tensor] = dict(net.state_dict())
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = {}
    for name, found in reader.read_metadata().state_dict_metadata.items():
        kind, _, rest = name.partition(".")
        own = parameters[int(rest.partition(".")[0])] if kind == "optimizer" else like.get(rest)
        if own is not None and own.shape == found.size:
            tensors[name] = torch.zeros_like(own, dtype=found.properties.dtype, requires_grad=False)
        else:
            tensors[name] = torch.zeros(found.size, dtype=found.properties.dtype)
    with warnings.catch_warnings():  # that there is one process only
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        read(tensors, storage_reader=reader)
    trees: dict[str, dict[str, Any]] = {"objective": {}, "optimizer": {}, "ema": {}}
    for name, x in tensors.items():
        kind, _, rest = name.partition(".")
        trees[kind][rest] = x
    state: dict[int, dict[str, Tensor]] = {}
    for name, x in trees["optimizer"].items():
        number, _, rest = name.partition(".")
        state.setdefault(int(number), {})[rest] = x
    optimizer_state = {**content["optimizer"], "state": state}
    return {**content, "objective": trees["objective"], "optimizer": optimizer_state, "ema": trees["ema"] or None}


def name(content: Mapping[str, Any]) -> str:
    """Return the name of the folder that belongs to a last.pt; "" if it has its tensors itself."""
    return content[PARTS]["folder"] if PARTS in content else ""


def clean(folder: Path, used: Collection[str]) -> None:
    """Delete the folders of saves that are not among the names `used`."""
    for path in folders(folder):
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)


def folders(folder: Path) -> list[Path]:
    """Return the folders of saves in the folder of a run, whole and broken ones."""
    return [path for path in folder.glob("last-*") if re.fullmatch(r"last-\d+", path.name)]


def _number(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _share(files: Iterable[Path], ranks: Ranks) -> list[Path]:
    """Return the files that this process reads, when all of them share the work."""
    return sorted(files)[ranks.rank :: ranks.size]


def _is(path: Path, size: int, checksum: int) -> bool:
    return path.is_file() and path.stat().st_size == size and _checksum(path) == checksum


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _reason(error: Any) -> str:
    """Return the message of the first process that failed, on one line."""
    failures = getattr(error, "failures", {})
    return next((str(failure[0]) for failure in failures.values()), str(error)).splitlines()[0]


def _reader(place: Path) -> Any:
    """Return a reader of `place`, which makes no objects but those of a save (`METADATA`)."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            with open(place / ".metadata", "rb") as file:
                metadata = _Unpickler(file).load()
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return Reader(place)


class _Unpickler(pickle.Unpickler):
    """Reader of a pickle that cannot run code, as `torch.load(weights_only=True)`."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what `METADATA` names, or a type of torch's numbers; UnpicklingError for anything else."""
        if name in METADATA.get(module, ()) or (module == "torch" and isinstance(getattr(torch, name, 0), torch.dtype)):
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _member
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint")


def _member(kind: Any, name: str) -> Any:
    """Return a member of an enumeration: before 3.11.4 Python saves them as calls of `getattr`.  UnpicklingError for others."""
    if isinstance(kind, enum.EnumMeta) and name in kind.__members__:
        return kind[name]
    raise pickle.UnpicklingError(f"builtins.getattr({kind!r}, {name!r}) is no part of a checkpoint")
