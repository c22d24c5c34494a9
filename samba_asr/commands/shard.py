"""`samba-asr shard`: write a corpus as a few large tar files."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

from samba_asr.errors import UserError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "shard",
        help="write a corpus as a few large tar files",
        description="Write a corpus as tar shards in WebDataset's layout, with a manifest that addresses their parts.  "
        "MANIFEST may be whatever samba-asr prepare reads: a manifest, a folder, tar or Parquet shards.  Called again after an "
        "interruption, it continues.",
    )
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="manifest or corpus to read")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the shards")
    parser.add_argument("--size", default="512M", metavar="N", help="bytes of a shard, or 256M, 2G (default: 512M)")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the shards and print the manifest; status 1 if utterances had to be left out."""
    from samba_asr.data.readers import read_corpus
    from samba_asr.data.shard_writer import write_shards

    utterances = read_corpus(args.manifest)
    begun = time.monotonic()

    def show(done: int, total: int) -> None:
        left = (time.monotonic() - begun) / done * (total - done)
        end = "\n" if done == total else ""
        if sys.stderr.isatty():
            print(f"\r\033[K{done} of {total} utterances, {left:.0f} s left", end=end, file=sys.stderr, flush=True)

    written = write_shards(utterances, args.out, size=_bytes(args.size), progress=show)
    for id, why in written.lost:
        print(f"left out: {id}: {why}", file=sys.stderr)
    print(f"{written.utterances} utterances in {written.shards} shards", file=sys.stderr)
    print(written.manifest)
    return 1 if written.lost else 0


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)B?", text.strip().upper())
    if not found or int(found[1]) == 0:
        raise UserError(f"--size {text!r}: give bytes, such as 512M or 2G")
    return int(found[1]) * _UNITS[found[2]]
