"""The folder of an exported model: graphs (samba_asr.runtime.export), and the files of a search.  Reading it needs no torch.

graphs.json, *.onnx, features.npz   the graphs
decode.json                         settings of recognition
tokenizer.*, lexicon.txt            samba_asr.text.tokenizer
lm.ngram, confidence.json, ...      as in the model's folder
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from samba_asr import collector
from samba_asr.config import Config
from samba_asr.config.plain import from_json
from samba_asr.errors import UserError
from samba_asr.models.loaded import LoadedModel
from samba_asr.text.tokenizer import load_tokenizer

SETTINGS = "decode.json"


def is_exported(folder: Path) -> bool:
    """Return whether a folder holds an exported model."""
    return (folder / SETTINGS).is_file()


def load_exported(folder: Path) -> LoadedModel:
    """Read the folder of an exported model.  Its `model` is None, and its runtime is onnx."""
    try:
        decode = from_json((folder / SETTINGS).read_text())
    except UserError as error:
        raise UserError(f"{folder / SETTINGS}: {error}") from None
    with collector.paused():
        tokenizer = load_tokenizer(folder)
    decode = replace(decode, runtime=replace(decode.runtime, backend="onnx", graphs=str(folder)))
    nothing: Any = None
    return LoadedModel(nothing, tokenizer, Config(decode=decode), folder)
