"""Options and formatting shared by all `samba-asr bench` commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from samba_asr.commands.search_options import MODEL_HELP, add_settings
from samba_asr.errors import UserError


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: as torch chooses)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_service(parser: argparse.ArgumentParser) -> None:
    """Add the options of a measured service: its model, and the speech that it receives."""
    parser.add_argument("--model", type=Path, metavar="FOLDER", help=MODEL_HELP)
    parser.add_argument(
        "--data", type=Path, metavar="MANIFEST", help="utterances to speak (default: the digits of the recipe)"
    )
    add_settings(parser)
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="speech of each client (default: 10)")
    parser.add_argument("--latency-ms", type=float, default=640.0, metavar="N", help="as in transcribe (default: 640)")
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: %(default)s)")


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
