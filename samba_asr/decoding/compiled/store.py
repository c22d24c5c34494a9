"""Tables of the compiled search as one file in the cache folder, which is mapped: no copy, no parsing, shared by processes.

Making them from a language model and a lexicon takes seconds and hundreds of megabytes.  The file's name is the hash of what they
were made from, so another model, lexicon or version has another file.  A file that is cut or foreign is made again.  Without the
right or the room to write, tables stay in memory.

The format is that of safetensors (`samba_asr.tensor_file`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from samba_asr.cache import cache_folder
from samba_asr.decoding.compiled.tables import Grams, Strings, Tables, Tree, fixed
from samba_asr.tensor_file import TYPES, parse

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the tables and of what they mean; a change makes all files anew."""
MOST = 400 << 20  # bytes in the folder; the files that were not used for longest are deleted
NAMES = {np.dtype(code): name for name, code in TYPES.items()}


def tables_for(files: Mapping[str, Path], make: Callable[[], Tables]) -> Tables:
    """Return the tables made from `files`, by purpose: mapped from the cache folder, or made by `make`, and then stored."""
    key = _key(files)
    path = cache_folder() / "tables" / f"{key[:32]}.safetensors"
    if (found := _read(path, key)) is not None:
        return found
    logger.info(
        "making tables of the language model for the beam search, which takes some seconds; later runs load them"
    )
    tables = make()
    try:
        write(path, tables, key)
        _prune(path)
    except OSError as error:
        logger.info("%s: cannot keep the search tables there (%s); they stay in memory", path.parent, error.strerror)
        return tables
    return _read(path, key) or tables


def _key(files: Mapping[str, Path]) -> str:
    """Hash the contents."""
    whole = hashlib.sha256(f"samba_asr tables {FORMAT}".encode())
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            whole.update(f"\n{name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return whole.hexdigest()


def write(path: Path, tables: Tables, key: str) -> None:
    """Write a file, as a whole or not at all; OSError if that fails."""
    arrays = {f"tree.{name}": x for name, x in tables.tree._asdict().items()}
    arrays |= {f"grams.{name}": x for name, x in tables.grams._asdict().items()}
    arrays |= {f"texts.{name}": x for name, x in tables.texts._asdict().items()}
    arrays |= {"spelt": tables.spelt, "likeliest": tables.likeliest, "begins": tables.begins}
    arrays |= {"weights": fixed([tables.weight, tables.bonus], np.float64)}
    arrays |= {"units": fixed([tables.space, tables.spell], np.int32)}
    header: dict[str, Any] = {"__metadata__": {"key": key}}
    at, order = 0, sorted(arrays, key=lambda name: -arrays[name].itemsize)  # the widest first, so that all are aligned
    for name in order:
        x = arrays[name]
        header[name] = {"dtype": NAMES[x.dtype], "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    head = json.dumps(header).encode()
    head += b" " * ((56 - len(head)) % 64)  # so that the arrays begin at a multiple of 64
    path.parent.mkdir(parents=True, exist_ok=True)
    number, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with open(number, "wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name in order:
                file.write(arrays[name].tobytes())
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _read(path: Path, key: str) -> Tables | None:
    """Map a file; None if there is none, or if it is not the one."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        about, arrays = parse(mapped)
        if about["key"] != key:
            return None
        tree = Tree(*(arrays[f"tree.{name}"] for name in Tree._fields))
        grams = Grams(*(arrays[f"grams.{name}"] for name in Grams._fields))
        texts = Strings(*(arrays[f"texts.{name}"] for name in Strings._fields))
        (weight, bonus), (space, spell) = arrays["weights"].tolist(), arrays["units"].tolist()
        os.utime(path)  # used last now
    except (FileNotFoundError, PermissionError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.info("%s: not a file of search tables (%s); it is made again", path, error)
        return None
    return Tables(
        tree=tree,
        grams=grams,
        texts=texts,
        spelt=arrays["spelt"],
        likeliest=arrays["likeliest"],
        begins=arrays["begins"],
        space=space,
        spell=bool(spell),
        weight=weight,
        bonus=bonus,
    )


def _prune(path: Path) -> None:
    """Delete the files that were not used for longest, so that at most `MOST` bytes are left, or `path` alone."""
    total = 0
    for some in sorted(path.parent.glob("*.safetensors"), key=lambda some: -some.stat().st_mtime):
        total += some.stat().st_size
        if total > MOST and some != path:
            some.unlink(missing_ok=True)
