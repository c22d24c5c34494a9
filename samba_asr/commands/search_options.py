"""Options of commands that recognize audio: `--set decode.key=value`, and the recognizer with these settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samba_asr.decoding.confidence import Evidence
    from samba_asr.recognizer import Recognizer

MODEL_HELP = "model folder, the name of a shipped model: english (default), digits; or hf:ORG/NAME, from the hub"


SEARCH_HELP = "override search settings of the model, such as decode.search.beam=32 decode.search.rescore=0.3"


def add_settings(parser: argparse.ArgumentParser, help: str = SEARCH_HELP) -> None:
    """Add `--set key=value ...`, which may be repeated, as `overrides`."""
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], dest="overrides", metavar="key=value", help=help
    )


def load_recognizer(
    model: Path | str | None,
    device: str,
    overrides: Sequence[str] = (),
    sure: Callable[[Evidence], float] | None = None,
    *,
    needs: Collection[str] = (),
) -> Recognizer:
    """Load a model that stays until the process ends; arguments as for `Recognizer.load`."""
    from samba_asr import collector
    from samba_asr.recognizer import Recognizer

    found = Recognizer.load(model, device=device, settings=overrides, sure=sure, needs=needs)
    collector.settle()
    return found
