"""What the kinds of `samba-asr bench` share."""

from __future__ import annotations

import argparse
from typing import Any

from samba_asr.errors import UserError


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU (default: as torch chooses)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def threads(args: argparse.Namespace) -> int:
    if args.threads < 0:
        raise UserError(f"--threads {args.threads}: give 1 or more")
    if args.threads:
        return args.threads
    import torch

    return torch.get_num_threads()


def place(found: dict[str, Any]) -> str:
    threads = found["threads"]
    return f"{found['device']} ({found['hardware']}), {threads} thread{'s' if threads != 1 else ''}"


def memory(found: dict[str, Any]) -> str:
    gpu = f" + {found['gpu_memory']:.0f} GPU" if found["gpu_memory"] else ""
    return f"{found['memory']:.0f}{gpu} MiB"
