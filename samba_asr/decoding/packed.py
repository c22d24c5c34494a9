"""Packed n-gram models: a third of the size of a gzipped ARPA file, read in a tenth of the time (`samba-asr lm pack`).

A file is an .npz archive of numpy arrays, compressed as a whole by xz:

    words           words by id, the likeliest first, joined by line feeds, UTF-8
    order-M-words   (M, 3, n) uint8: n-grams of order M, sorted.  Each row has the ids of one position, as differences from the
                    previous n-gram modulo 2^24, in three byte planes.  Sorted n-grams share beginnings, so most are zeros
    order-M-worth   (2, 2, n) uint8: logarithms of probability and back-off in steps of 1/16 nat, as planes of int16

The rounding error is at most 1/32 nat.
"""

from __future__ import annotations

import io
import lzma
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samba_asr.errors import UserError

STEP = 1 / 16  # nats
MAGIC = b"\xfd7zXZ\x00"
MOST = 4 << 30  # bytes of an unpacked file, at most: some hundred million n-grams


class Grams(NamedTuple):
    """The n-grams of one order."""

    words: np.ndarray  # (n, order) int32 ids
    log_prob: np.ndarray  # (n,) float32, natural logarithm
    backoff: np.ndarray  # (n,) float32, natural logarithm; 0 where there is none


def is_packed(head: bytes) -> bool:
    """Return whether a file that begins with `head` is packed."""
    return head.startswith(MAGIC)


def write(path: Path, words: Sequence[str], grams: Sequence[Grams]) -> None:
    """Write a packed model; the file is replaced as a whole or not at all."""
    likely = np.argsort(-grams[0].log_prob[np.argsort(grams[0].words[:, 0])], kind="stable")  # ids, the likeliest first
    new_ids = np.empty(len(words), dtype=np.int64)
    new_ids[likely] = np.arange(len(words))
    text = "\n".join(words[int(i)] for i in likely)
    arrays: dict[str, Any] = {"words": np.frombuffer(text.encode(), dtype=np.uint8)}
    for order, some in enumerate(grams, 1):
        ids = new_ids[some.words]
        sort = np.lexsort(ids.T[::-1])
        ids = ids[sort].T  # (order, n)
        less = np.diff(ids, axis=1, prepend=0) & 0xFFFFFF
        arrays[f"order-{order}-words"] = np.stack([less >> shift & 0xFF for shift in (0, 8, 16)], 1).astype(np.uint8)
        logs = np.stack([some.log_prob[sort], some.backoff[sort]])
        steps = np.clip(np.round(logs / STEP), -(1 << 15), (1 << 15) - 1).astype(np.int64) & 0xFFFF
        arrays[f"order-{order}-worth"] = np.stack([steps & 0xFF, steps >> 8], 1).astype(np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(lzma.compress(buffer.getvalue(), preset=6))
    part.replace(path)


def read(path: Path) -> tuple[list[str], list[Grams]]:
    """Read the words, by id, and the n-grams, by order.  UserError for an invalid file."""
    try:
        with lzma.open(path) as file:
            content = file.read(MOST)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            words = arrays["words"].tobytes().decode().split("\n")
            orders = sum(name.endswith("-worth") for name in arrays.files)
            grams = [_grams(arrays, order, len(words)) for order in range(1, orders + 1)]
        if not grams:
            raise ValueError("no n-grams")
        return words, grams
    except (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a packed language model ({error}): samba-asr lm pack writes one") from None


def _grams(arrays, order: int, words: int) -> Grams:
    planes, logs = arrays[f"order-{order}-words"], arrays[f"order-{order}-worth"]
    n = planes.shape[-1]
    if planes.shape != (order, 3, n) or logs.shape != (2, 2, n) or planes.dtype != np.uint8 or logs.dtype != np.uint8:
        raise ValueError(f"order {order} has shapes {planes.shape} and {logs.shape}")
    less = planes[:, 0] + planes[:, 1].astype(np.int64) * 256 + planes[:, 2].astype(np.int64) * 65536
    ids = np.cumsum(less, axis=1) & 0xFFFFFF
    if n and ids.max() >= words:
        raise ValueError(f"order {order} names word {ids.max()} of {words}")
    steps = (logs[:, 0] + logs[:, 1].astype(np.int64) * 256).astype(np.uint16).view(np.int16)
    log_prob, backoff = steps.astype(np.float32) * np.float32(STEP)
    return Grams(ids.T.astype(np.int32), log_prob, backoff)
