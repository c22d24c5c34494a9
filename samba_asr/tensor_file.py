"""Reader of safetensors files for numpy, without the package: it maps files, and installations without torch lack the package.

The format: the length of the header in 8 bytes, the header as JSON, the tensors (safetensors' README, "Format").
"""

from __future__ import annotations

import json
import mmap

import numpy as np

TYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "|i1"},
    **{"U8": "|u1", "BOOL": "|b1", "BF16": "<u2"},
}
"""numpy's names of the types that files of this project have.  Numpy lacks bfloat16, which is the first half of a float32."""


def parse(content: bytes | mmap.mmap) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Return the metadata, and the tensors by name: arrays that cannot be written, in the memory of `content`;
    those of bfloat16 are copies, as float32.

    ValueError, KeyError, TypeError or AttributeError for content that is cut, damaged or of another kind.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    if not 8 < start <= len(content):
        raise ValueError("no head of safetensors")
    header = json.loads(content[8:start])
    about = header.pop("__metadata__", {})
    if len(content) != start + max(entry["data_offsets"][1] for entry in header.values()):
        raise ValueError("its tensors are cut, or followed by something else")
    return about, {name: _array(content, start, entry) for name, entry in header.items()}


def _array(content: bytes | mmap.mmap, start: int, entry: dict) -> np.ndarray:
    dtype, (low, high) = np.dtype(TYPES[entry["dtype"]]), entry["data_offsets"]
    if low == high:  # numpy reads no empty buffer
        found = np.zeros(entry["shape"], dtype)
        found.flags.writeable = False
        return found
    found = np.frombuffer(content, dtype, (high - low) // dtype.itemsize, start + low).reshape(entry["shape"])
    return _float32(found) if entry["dtype"] == "BF16" else found


def _float32(bits: np.ndarray) -> np.ndarray:
    """Return the values of bfloat16 that have these bits."""
    found = (bits.astype("<u4") << 16).view("<f4")
    found.flags.writeable = False
    return found
