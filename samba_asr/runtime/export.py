"""Export of a model to graphs that run without torch: `samba-asr export`.

    front.onnx     features (b, t', m), lengths (b,), state -> subsampled (b, t, d), after: convolutions to encoder frames
    block.onnx     frames (b, t, d), keep (b,), state -> encoded (b, t, d), log_probs (b, t, v), after: layers and head
    whole.onnx     the same function, fast for long blocks
    features.npz   window, filters and statistics of the features, which `samba_asr.audio.features_numpy` computes
    graphs.json    sizes, the sha256 of the weights and of each file

Every graph takes any number of rows and any length.  A state is one matrix of float32, a row for each session; zeros are the
state before the first step.  keep: frames of a block after which its state is taken.
`samba_asr.runtime.onnx` runs the folder.

    b rows     t encoder frames     t' feature frames     d channels     m mels     v units
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from samba_asr.audio.onnx import quantize, session
from samba_asr.config.plain import to_json
from samba_asr.errors import UserError, missing_extra
from samba_asr.models.asr import AsrModel
from samba_asr.models.exported import SETTINGS
from samba_asr.models.folder import LoadedModel, copy_search_files
from samba_asr.models.heads import heads
from samba_asr.nn.mixers import mixers
from samba_asr.ops.blocks import Blocks
from samba_asr.ops.exporting import recording
from samba_asr.runtime import onnx_symbols
from samba_asr.runtime.onnx import BLOCK, DESCRIPTION, FEATURES, FORMAT, FRONT, WHOLE, Description, sha256
from samba_asr.streaming import State, leaves

logger = logging.getLogger(__name__)

TOLERANCE = 1e-2
"""Largest difference of a graph from torch on random input: 2e-5 is usual, and a graph with a fixed size is wrong by far more."""


class PackedState:
    """A tree of states as one matrix: the leaves of a row side by side."""

    def __init__(self, example: State):
        """example: a state of one row.  UserError if a leaf is not float32, or does not begin with zeros."""
        self.example = example
        self.shapes = [tuple(leaf.shape[1:]) for leaf in leaves(example)]
        self.sizes = [leaf.numel() for leaf in leaves(example)]
        self.width = sum(self.sizes)
        if any(leaf.dtype != torch.float32 or bool(leaf.any()) for leaf in leaves(example)):
            raise UserError(
                "this model cannot be exported: a layer's state is not float32, or does not begin with zeros"
            )

    def pack(self, state: State) -> Tensor:
        """Return (b, width)."""
        return torch.cat([leaf.flatten(1) for leaf in leaves(state)], 1)

    def unpack(self, packed: Tensor) -> State:
        """Return the tree of a matrix (b, width)."""
        parts = packed.split(self.sizes, 1)
        unfolded = iter(part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True))

        def build(node: State) -> State:
            if isinstance(node, Tensor):
                return next(unfolded)
            children = [build(child) for child in node]
            return type(node)(*children) if hasattr(node, "_fields") else tuple(children)

        return build(self.example)


class FrontGraph(nn.Module):
    """Log-mel features -> encoder frames."""

    outputs = ("subsampled", "after")

    def __init__(self, model: AsrModel):
        super().__init__()
        self.subsampling = model.acoustic.subsampling
        self.mels, self.factor = model.config.features.mels, model.config.subsampling
        self.state = PackedState(self.subsampling.init_state(1, dtype=torch.float32))

    def forward(self, features: Tensor, lengths: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        frames, _, after = self.subsampling.step(features, lengths, self.state.unpack(state))
        return frames, self.state.pack(after)

    def inputs(self, b: int, t: int) -> dict[str, Tensor]:
        """Return random inputs for `b` rows of up to `t` frames."""
        lengths = torch.arange(t, t - b, -1).clamp(min=0) * self.factor
        return {
            "features": torch.randn(b, t * self.factor, self.mels),
            "lengths": lengths,
            "state": torch.randn(b, self.state.width),
        }


class LayersGraph(nn.Module):
    """The encoder's layers and the head, on rows of one block each."""

    outputs = ("encoded", "log_probs", "after")

    def __init__(self, model: AsrModel):
        super().__init__()
        self.encoder, self.head = model.acoustic.encoder, model.ctc
        self.state = PackedState(tuple(layer.init_state(1, dtype=torch.float32) for layer in self.encoder.layers))

    def forward(self, frames: Tensor, keep: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, t = frames.shape[:2]
        y, after = self.encoder.one_block(frames, self.state.unpack(state), reversed_block(b, t, keep))
        log_probs = self.head.step(y, keep.new_full((b,), t), self.head.init_state(b)).x
        return y, log_probs, self.state.pack(after)

    def inputs(self, b: int, t: int) -> dict[str, Tensor]:
        """Return random inputs for `b` rows of `t` frames."""
        return {
            "frames": torch.randn(b, t, self.encoder.d_model),
            "keep": torch.arange(t, t - b, -1).clamp(min=1),
            "state": 0.1 * torch.randn(b, self.state.width),
        }


def reversed_block(b: int, t: int, keep: Tensor) -> Blocks:
    """Lay out `b` rows of one block of `t` frames, as `samba_asr.ops.blocks.lay_blocks` does, but for any `t`."""
    rows = torch.arange(b, device=keep.device)[:, None] * t + (t - 1 - torch.arange(t, device=keep.device))
    return Blocks(rows.flatten(), None, None, keep.new_full((b,), t), keep)


# ---- which parts can be exported -------------------------------------------------------------------------------------


def exportable_mixers() -> list[str]:
    """Return the names of the mixers whose layers can be exported."""
    return [name for name in mixers if mixers[name].exportable]


def check(model: AsrModel) -> None:
    """Raise UserError, with the parts that can be exported, if a part of the model cannot."""
    config = model.config
    if config.mixer.name not in exportable_mixers():
        raise UserError(
            f"the mixer {config.mixer.name!r} cannot be exported: its scan is a loop over time; these can: "
            f"{', '.join(exportable_mixers())}"
        )
    if not all(layer.exportable for layer in model.acoustic.subsampling.layers):
        raise UserError(
            f"the front end {config.front!r} cannot be exported: its scan is a loop over time; model.front=conv can"
        )
    if not model.ctc.exportable:
        names = [name for name in heads if heads[name].exportable]
        raise UserError(f"the head {config.head!r} cannot be exported; these can: {', '.join(names)}")
    if any(model.acoustic.encoder.depths):
        raise UserError("model.rates cannot be exported: frames are grouped anew for each block")
    if config.skip_blanks:
        raise UserError("model.skip_blanks cannot be exported: how many frames it skips depends on the audio")
    if model.decoder is not None:
        logger.info("the decoder of the second pass is not exported: with graphs it needs torch")


# ---- writing ---------------------------------------------------------------------------------------------------------


def export(model: AsrModel, weights: str, out: Path, *, int8: bool = False) -> Description:
    """Write the graphs of a model in evaluation mode to the folder `out`; older graphs are replaced.

    weights: sha256 of its model.safetensors.
    int8: write matrices of products as 8-bit integers: files and memory a third, and other results.
    UserError if a part of the model cannot be exported, or a package is missing.
    """
    check(model)
    for package in ("onnx", "onnxruntime"):  # before the graphs are recorded, which takes a while
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "export")
    out.mkdir(parents=True, exist_ok=True)
    (out / DESCRIPTION).unlink(missing_ok=True)  # without it the folder is refused, until all files are written
    features, acoustic, config = model.features, model.acoustic, model.config
    arrays = {name: getattr(features, name).cpu().numpy() for name in ("window", "bank", "mean", "std")}
    np.savez(out / FEATURES, **arrays)
    front, layers = FrontGraph(model).eval(), LayersGraph(model).eval()
    for name, graph in ((FRONT, front), (BLOCK, layers), (WHOLE, layers)):
        record(graph, out / name, short=name == BLOCK)
        if int8:
            quantize(out / name)
        verify(graph, out / name, exact=not int8)
    about = Description(
        FORMAT,
        weights,
        {name: sha256(out / name) for name in (FRONT, BLOCK, WHOLE, FEATURES)},
        rate=config.features.sample_rate,
        hop=config.features.hop,
        stride=acoustic.stride,
        max_block=config.max_block,
        d_model=config.d_model,
        units=config.vocab_size,
        front_state=front.state.width,
        layer_state=layers.state.width,
        int8=int8,
        gain=config.features.gain,
    )
    part = out / f"{DESCRIPTION}.part"
    part.write_text(json.dumps(about._asdict(), indent=2) + "\n")
    part.replace(out / DESCRIPTION)
    return about


def record(graph: FrontGraph | LayersGraph, path: Path, *, short: bool) -> None:
    """Write one graph.  short: for short blocks."""
    onnx_symbols.register()
    inputs = graph.inputs(3, 23)
    batch = {name: {0: "b", 1: "t"} if x.dim() == 3 else {0: "b"} for name, x in inputs.items()}
    with torch.no_grad(), recording(short), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the older one, and that a choice by a size is recorded
        torch.onnx.export(
            graph,
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            opset_version=onnx_symbols.OPSET,
            input_names=list(inputs),
            output_names=list(graph.outputs),
            dynamic_axes=batch,
        )


def verify(graph: FrontGraph | LayersGraph, path: Path, *, exact: bool) -> None:
    """Compare a written graph with torch, at sizes other than the recorded ones; RuntimeError if it differs.

    exact: False: compare shapes alone.
    """
    run = session(path, "fast")
    for b, t in ((1, 1), (2, 9), (5, 40)):
        inputs = graph.inputs(b, t)
        with torch.no_grad():
            expected = graph(*inputs.values())
        found = run.run(None, {name: x.numpy() for name, x in inputs.items()})
        for name, x, y in zip(graph.outputs, expected, found, strict=True):
            error = float(np.abs(x.numpy() - y).max()) if x.shape == y.shape else math.inf
            if not error < (TOLERANCE if exact else math.inf):
                raise RuntimeError(f"{path.name}: {name} of {b} rows and {t} frames is wrong by {error:g}")


def complete(loaded: LoadedModel, out: Path) -> None:
    """Write what recognition needs besides the graphs: settings, tokenizer, language models, calibration.

    UserError for settings that an exported model cannot have.
    """
    decode = loaded.config.decode
    if decode.search.rescore:
        raise UserError(
            "decode.search.rescore: an exported model has no second pass: set it to 0 in the model's config.yaml"
        )
    if loaded.folder is not None:
        decode = copy_search_files(decode, loaded.folder, out)
        if (confidence := loaded.folder / "confidence.json").is_file():
            shutil.copyfile(confidence, out / confidence.name)
    loaded.tokenizer.save(out)
    (out / SETTINGS).write_text(to_json(decode) + "\n")
