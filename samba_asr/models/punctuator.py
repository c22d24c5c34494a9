"""Punctuation and case: a small Hydra network over words.

Bidirectional layers read a block of words at once, forward from the words before it, whose state is carried.  A block is a
segment of speech, or a window of a text.  So the same weights serve live and offline use, with any number of words of
look-ahead (samba_asr.nn.blocks).  The pause after a word is an optional input.  Recognition runs the twin of this network in
numpy (samba_asr.models.punctuator_numpy).

    b rows     t words     f features of a word     d d_model     c classes: those of the case, then those of the mark
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import HydraConfig, PunctuationConfig
from samba_asr.models import one_file
from samba_asr.models.punctuator_numpy import FILE, SCALE
from samba_asr.nn.blocks import BlockModule
from samba_asr.nn.dropout import Dropout
from samba_asr.nn.linear import FeedForward
from samba_asr.nn.mixers import build_mixer
from samba_asr.ops.blocks import Blocks, lay_blocks
from samba_asr.streaming import State, Step
from samba_asr.text.written.marks import CASES, MARKS
from samba_asr.text.written.vocabulary import PAUSES, Vocabulary


class PunctuatorLayer(BlockModule):
    """Hydra mixer and feed-forward, each with a residual connection."""

    def __init__(self, config: PunctuationConfig):
        super().__init__()
        mixer = HydraConfig(d_state=config.d_state, headdim=config.headdim, dt_min=0.01)
        self.norm, self.mixer = nn.LayerNorm(config.d_model), build_mixer(config.d_model, mixer)
        self.feed_forward = FeedForward(config.d_model, config.ffn_expand, config.dropout)
        self.dropout = Dropout(config.dropout)

    def init_state(self, batch, *, device=None, dtype=None):
        return self.mixer.init_state(batch, device=device, dtype=dtype)

    def step(self, x: Tensor, lengths: Tensor, state: State, blocks: Blocks) -> Step:
        x = blocks.mask(x)
        y, _, state = self.mixer.step(self.norm(x), lengths, state, blocks)
        x = x + self.dropout(y)
        return Step(x + self.feed_forward(x), lengths, state)


class Punctuator(BlockModule):
    """Network from words to their cases and the marks after them.

    listed: spellings of words that are neither lower case, capitalized nor upper case, by word.
    bias: (len(MARKS),) nats that are added to the marks' log-probabilities when a mark is chosen.
    """

    def __init__(
        self,
        config: PunctuationConfig,
        words: Sequence[str],
        listed: Mapping[str, str] | None = None,
        bias: Sequence[float] = (0.0,) * len(MARKS),
    ):
        super().__init__()
        self.config, self.vocabulary = config, Vocabulary(words, config.hashes)
        self.listed, self.bias = dict(listed or {}), tuple(bias)
        self.embedding = nn.EmbeddingBag(self.vocabulary.size, config.d_embedding, mode="sum", padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=0.05)
        with torch.no_grad():
            self.embedding.weight[0] = 0
        self.pause = nn.Embedding(len(PAUSES) + 2, config.d_model)
        self.project = nn.Linear(config.d_embedding, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.layers = cast("Sequence[PunctuatorLayer]", nn.ModuleList(map(PunctuatorLayer, [config] * config.layers)))
        self.norm = nn.LayerNorm(config.d_model)
        self.output = nn.Linear(config.d_model, len(CASES) + len(MARKS))

    def init_state(self, batch, *, device=None, dtype=None):
        """Return the state of `batch` rows before any word."""
        return tuple(layer.init_state(batch, device=device, dtype=dtype) for layer in self.layers)

    def step(self, x: Tensor, lengths: Tensor, state: State, blocks: Blocks) -> Step:
        """Process words; return logits (b, t, c) and the state.

        x: (b, t, f + 1) int64.  The rows of `Vocabulary.features`, then the class of the pause after the word.
        lengths: (b,) valid words: whole blocks, except for the last block of a text.
        """
        b, t, _ = x.shape
        if t == 0:
            return Step(self.output.weight.new_zeros(b, 0, self.output.out_features), lengths, state)
        x = blocks.mask(x)
        words = self.embedding(x[..., :-1].reshape(b * t, -1)).view(b, t, -1)
        y = self.dropout(self.project(words) + self.pause(x[..., -1]))
        after = []
        for layer, before in zip(self.layers, state, strict=True):
            y, _, s = layer.step(y, lengths, before, blocks)
            after.append(s)
        return Step(self.output(self.norm(y)), lengths, tuple(after))

    @torch.inference_mode()
    def read(self, x: np.ndarray, state: State | None, beyond: int = 0) -> tuple[np.ndarray, np.ndarray, State]:
        """Read a segment, as `samba_asr.decoding.written.Network.read`."""
        lengths = torch.tensor([len(x)])
        blocks = lay_blocks(lengths, len(x), len(x))
        if beyond:
            blocks = blocks._replace(keep=lengths - beyond)
        if state is None:
            state = self.init_state(1, dtype=self.output.weight.dtype)
        logits, _, state = self.step(torch.from_numpy(x)[None], lengths, state, blocks)
        cases, marks = probabilities(logits[0])
        return cases.numpy(), marks.numpy(), state

    def logits(self, x: Tensor, lengths: Tensor, block: int = -1) -> Tensor:
        """Return logits (b, t, c) of whole texts x (b, t, f + 1), in blocks of `block` words; -1: each text is one block."""
        t = x.shape[1]
        return self(x, lengths, lay_blocks(lengths, t, block if block > 0 else max(t, 1)))[0]


def save_punctuator(path: Path, model: Punctuator) -> None:
    """Write the network to one file: matrices in 8 bits with a scale for each row, the rest in 16; words in the metadata."""
    about = {
        "vocabulary": " ".join(model.vocabulary.words),
        "listed": " ".join(model.listed.values()),
        "bias": " ".join(f"{x:.3f}" for x in model.bias),
        **{name: _plain(value) for name, value in asdict(model.config).items()},
    }
    weights = {}
    for name, x in model.state_dict().items():
        x = x.detach().cpu().float()
        if x.dim() == 2:
            scale = x.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
            weights[name], weights[name + SCALE] = (x / scale).round().to(torch.int8), scale.half()
        else:
            weights[name] = x.half()
    one_file.write(path, weights, about)


@functools.cache
def load_punctuator(path: Path | None = None) -> Punctuator:
    """Load the shipped network, or that of a file; UserError for a missing or other file."""
    path = path or Path(__file__).with_name(FILE)
    with one_file.opened(path, "punctuation", "samba-asr punctuation") as (about, stored):
        sizes: dict[str, Any] = {f.name: _parse(about[f.name], f.default) for f in fields(PunctuationConfig)}
        listed = {spelling.lower(): spelling for spelling in about["listed"].split()}
        bias = tuple(map(float, about["bias"].split()))
        if len(bias) != len(MARKS):
            raise ValueError(f"{len(bias)} marks, not {len(MARKS)}")
        model = Punctuator(PunctuationConfig(**sizes), about["vocabulary"].split(), listed, bias)
        weights = {
            name: x * stored[name + SCALE] if name + SCALE in stored else x
            for name, x in stored.items()
            if not name.endswith(SCALE)
        }
        model.load_state_dict(weights)
        return model.eval()


def _plain(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _parse(text: str, default):
    return tuple(map(int, text.split())) if isinstance(default, tuple) else type(default)(text)


def probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of cases (b, t, len(CASES)) and of marks (b, t, len(MARKS)), float32, of logits (b, t, c)."""
    cases, marks = logits.float().split([len(CASES), len(MARKS)], dim=-1)
    return F.log_softmax(cases, -1), F.log_softmax(marks, -1)
