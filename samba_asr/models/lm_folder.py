"""The folder of a Mamba language model: config.yaml, lm.safetensors, tokenizer.*."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from samba_asr.config import Config, load, save
from samba_asr.errors import UserError
from samba_asr.models.box import is_boxed
from samba_asr.models.folder import check_version
from samba_asr.models.lm import MambaLm
from samba_asr.models.weights import build_and_load, save_weights
from samba_asr.text.tokenizer import Tokenizer, load_tokenizer

FILE = "lm.safetensors"  # not model.safetensors, so that it is not mistaken for a recognizer


class LoadedLm(NamedTuple):
    """A language model, as read from its folder."""

    model: MambaLm  # in evaluation mode
    tokenizer: Tokenizer


def save_lm(
    folder: Path,
    model: MambaLm,
    config: Config,
    tokenizer: Tokenizer,
    *,
    perplexity: float,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the folder.  perplexity: per word, for the README.  dtype: of matrices in the file."""
    folder.mkdir(parents=True, exist_ok=True)
    save(config, folder / "config.yaml")
    save_weights(model, folder / FILE, dtype)
    tokenizer.save(folder)
    parameters = sum(p.numel() for p in model.parameters())
    (folder / "README.md").write_text(
        f"# A samba_asr language model\n\n{parameters:,} parameters; {config.lm.layers} Mamba-2 layers of d_model "
        f"{config.lm.d_model}; {tokenizer.KIND} of {tokenizer.vocab_size} units; perplexity {perplexity:.1f} a word on its "
        "validation text.\nUse: decode.lm.neural=FOLDER\n"
    )


def is_lm_folder(folder: Path) -> bool:
    """Return whether a folder holds a Mamba language model."""
    return (folder / FILE).is_file() and (folder / "config.yaml").is_file()


def load_lm(folder: Path, device: torch.device | str = "cpu") -> LoadedLm:
    """Read the folder.  UserError for a missing file, another version, or weights that do not fit."""
    for name in ("config.yaml", FILE):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is not the folder of a Mamba language model: it has no {name} (samba-asr lm mamba makes one)"
            )
    check_version(folder / "config.yaml")
    config, tokenizer = load(folder=folder), load_tokenizer(folder)
    trusted = is_boxed(folder.parent)
    model = build_and_load(
        folder / FILE, lambda: MambaLm(config.lm, tokenizer.vocab_size), config.lm.layers, trusted=trusted
    )
    return LoadedLm(model.to(device).eval(), tokenizer)
