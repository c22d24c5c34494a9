"""Registry of the runtimes, by the value of decode.runtime.backend, and the choice of `auto`."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from samba_asr.cache import cache_folder
from samba_asr.config import RuntimeConfig
from samba_asr.errors import UserError, to_install
from samba_asr.models.loaded import LoadedModel
from samba_asr.registry import Registry
from samba_asr.runtime.base import AcousticRuntime
from samba_asr.runtime.onnx import DESCRIPTION, FORMAT, OnnxRuntime, sha256

if TYPE_CHECKING:
    from samba_asr.runtime.torch import TorchRuntime

logger = logging.getLogger(__name__)

runtimes = Registry("runtime")  # of functions (model, settings) -> AcousticRuntime


@runtimes.register("torch")
def torch_runtime(loaded: LoadedModel, config: RuntimeConfig) -> TorchRuntime:
    """Run the model in torch, on its device; UserError for an exported model."""
    if loaded.model is None:
        raise UserError(
            f"{loaded.folder} is an exported model, which torch cannot run: use the folder it was made from"
        )
    from samba_asr.runtime.torch import TorchRuntime

    return TorchRuntime(loaded.model)


@runtimes.register("onnx")
def onnx_runtime(loaded: LoadedModel, config: RuntimeConfig) -> OnnxRuntime:
    """Run the graphs of decode.runtime.graphs, or those in the cache; UserError if they are missing, or of other weights."""
    if loaded.model is None:
        return OnnxRuntime(config.graphs or loaded.folder or "")
    digest = weights_digest(loaded.folder)
    folder = Path(config.graphs) if config.graphs else digest and cached_graphs(digest)
    if not folder or not (folder / DESCRIPTION).is_file():
        raise UserError(
            f"decode.runtime.backend=onnx: {config.graphs or 'the cache'} holds no graphs of this model: "
            f"write them with samba-asr export --model {loaded.folder or 'FOLDER'}"
        )
    return OnnxRuntime(folder, weights=digest, second_pass=loaded.model.decoder)


class Choice(NamedTuple):
    """A runtime by name, and the reason for it."""

    name: str
    why: str


def choose(loaded: LoadedModel, config: RuntimeConfig, *, gaps: bool = False) -> Choice:
    """Return the runtime for these settings: `auto` is onnx where graphs of the model exist and it is on a CPU, else torch.

    gaps: whether a gate (decode.vad) leaves audio out.  Then `auto` is torch, because graphs start again after a pause, and torch
        lets its time pass: the texts could differ.
    """
    if config.backend != "auto":
        runtimes[config.backend]  # UserError if unknown
        return Choice(config.backend, f"decode.runtime.backend={config.backend}")
    if loaded.model is None:
        return Choice("onnx", f"{loaded.folder} is an exported model")
    device = next(loaded.model.parameters()).device.type
    if device != "cpu":
        return Choice("torch", f"the model is on {device}")
    if gaps:
        return Choice("torch", "decode.vad leaves audio out, and graphs start again after each pause")
    if config.graphs:
        return Choice("onnx", f"decode.runtime.graphs={config.graphs}")
    if not (cache_folder() / "graphs").is_dir() or not (digest := weights_digest(loaded.folder)):
        return Choice("torch", "samba-asr export has written no graphs")
    folder = cached_graphs(digest)
    if not (folder / DESCRIPTION).is_file():
        return Choice("torch", "samba-asr export has written no graphs of this model")
    if not importlib.util.find_spec("onnxruntime"):
        return Choice("torch", f"{folder} has graphs, but onnxruntime is missing: {to_install('fast')}")
    return Choice("onnx", f"graphs of this model are in {folder}")


def build(loaded: LoadedModel, config: RuntimeConfig, *, gaps: bool = False) -> AcousticRuntime:
    """Make the chosen runtime; arguments as for `choose`.

    If `auto` finds damaged graphs in the cache, a warning is logged, and torch runs the model.
    """
    chosen = choose(loaded, config, gaps=gaps)
    try:
        return runtimes.build(chosen.name, loaded, config)
    except UserError as error:
        if config.backend != "auto" or config.graphs:
            raise
        logger.warning("the model runs in torch: %s", error)
        return runtimes.build("torch", loaded, config)


def cached_graphs(digest: str) -> Path:
    """Return the folder of a model's graphs in the cache, which need not exist.  digest: sha256 of the model's weights."""
    return cache_folder() / "graphs" / f"{digest[:32]}.{FORMAT}"


def weights_digest(folder: Path | None) -> str | None:
    """Return the sha256 of the weights in a model folder; None for a folder without weights."""
    path = folder and Path(folder) / "model.safetensors"
    return sha256(path) if path and path.is_file() else None
