"""Preparation of corpora: one module for each corpus, installed as `samba_asr.recipes`.

Each has `prepare(source, out, options, ...) -> {set: manifest}`: `out/<set>.jsonl`, and Kaldi's `out/<set>/`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from samba_asr.errors import UserError

RECIPES = {
    "digits": "connected digits by synthetic voices, in the repository (25 minutes)",
    "fsdd": "Free Spoken Digit Dataset (22 minutes)",
    "mini_librispeech": "five hours of LibriSpeech",
    "librispeech": "LibriSpeech, 100 to 960 hours",
}


def load(name: str) -> ModuleType:
    """Import the recipe's module.  UserError for an unknown name."""
    if name not in RECIPES:
        raise UserError(f"no recipe {name!r}: choose from {', '.join(RECIPES)}")
    return importlib.import_module(f"{__name__}.{name}")
