"""What commands that recognise audio share: `--set decode.key=value`, and the recogniser that it makes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samba_asr.decoding.confidence import Evidence
    from samba_asr.recognizer import Recognizer

MODEL_HELP = "a folder, or a model in the box: english (default), digits"


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        dest="overrides",
        metavar="key=value",
        help="settings over the model's own search, such as decode.search.beam=32 decode.search.rescore=0.3",
    )


def load_recognizer(
    model: Path | None, device: str, overrides: Sequence[str], sure: Callable[[Evidence], float] | None = None
) -> Recognizer:
    """`Recognizer.load`, for the whole of a process's life.  sure: see `Recognizer`."""
    from samba_asr import collector
    from samba_asr.recognizer import Recognizer

    found = Recognizer.load(model, device=device, settings=overrides, sure=sure)
    collector.settle()
    return found
