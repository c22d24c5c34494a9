"""What commands that recognise audio share: `--set decode.key=value`, and the recogniser that it makes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.decoding.confidence import Evidence
    from samba_asr.recognizer import Recognizer

MODEL_HELP = "a folder, or a model in the box: english (default), digits"


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], dest="overrides", metavar="key=value",
        help="search settings, such as decode.method=beam decode.rescore=0.3",
    )  # fmt: skip


def load_recognizer(
    model: Path | None, device: str, overrides: Sequence[str], sure: Callable[[Evidence], float] | None = None
) -> Recognizer:
    """A model folder, or a name in the box, with its own search settings and `overrides` over them.

    UserError for settings of anything but the search.  sure: see `Recognizer`.
    """
    from samba_asr import collector
    from samba_asr import config as configs
    from samba_asr.device import choose_device
    from samba_asr.models.folder import load_model
    from samba_asr.recognizer import Recognizer, box_folder

    foreign = [text for text in overrides if not text.startswith("decode.")]
    if foreign:
        raise UserError(f"--set {foreign[0]}: only decode.* can be set here")
    folder = box_folder(model)
    loaded = load_model(folder, choose_device(device))
    found = Recognizer(loaded, configs.load([folder / "config.yaml"], overrides).decode, sure)
    collector.settle()
    return found
