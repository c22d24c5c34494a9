"""A language model of Mamba-2 layers, like the decoder's but without speech.

Its state has a fixed size for any length of text, so a beam search keeps it as one row.
Experts in the feed-forwards and a memory of product keys are Hydra's (arXiv 2508.15099); both are off unless asked for.  Hydra's
sparse attention is left out: a sentence is short, and the Mamba layers read all of it.
Shapes: b batch, u units, d d_model, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import LmConfig, Mamba2Config
from samba_asr.nn.dropout import Dropout
from samba_asr.nn.experts import Experts
from samba_asr.nn.linear import FeedForward
from samba_asr.nn.mixers import Mamba2
from samba_asr.nn.product_keys import ProductKeyMemory
from samba_asr.streaming import State
from samba_asr.text.units import BOUNDARY


class LmLayer(nn.Module):
    """Mamba-2 mixer and feed-forward, or experts, each with a residual connection."""

    def __init__(self, config: LmConfig):
        super().__init__()
        mixer = Mamba2Config(d_state=config.d_state, expand=config.expand, headdim=config.headdim)
        self.norm, self.mixer = nn.LayerNorm(config.d_model), Mamba2(config.d_model, mixer)
        width = (config.ffn_expand, config.dropout)
        if config.experts:
            self.feed_forward = Experts(config.d_model, config.experts, *width, config.balance)
        else:
            self.feed_forward = FeedForward(config.d_model, *width)
        self.dropout = Dropout(config.dropout)

    def step(self, x: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        y = self.mixer.step(self.norm(x), lengths, state)
        x = x + self.dropout(y.x)
        routed = isinstance(self.feed_forward, Experts)
        return x + (self.feed_forward(x, lengths) if routed else self.feed_forward(x)), y.state


class MambaLm(nn.Module):
    """Autoregressive language model over tokens."""

    def __init__(self, config: LmConfig, vocab_size: int):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.layers = cast("Sequence[LmLayer]", nn.ModuleList(LmLayer(config) for _ in range(config.layers)))
        self.memory = ProductKeyMemory(config.d_model, config.memory) if config.memory else None
        self.norm = nn.LayerNorm(config.d_model)
        self.output = nn.Linear(config.d_model, vocab_size)

    def init_state(self, batch: int, *, device=None, dtype=None) -> State:
        """Return the state of `batch` rows before any token, before the boundary that starts a text too."""
        return tuple(layer.mixer.init_state(batch, device=device, dtype=dtype) for layer in self.layers)

    def step(self, tokens: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        """Process tokens (b, u), `lengths` (b,) of them valid; return logits (b, u, v) of each next token, and the state."""
        x = self.dropout(self.embedding(tokens))
        after = []
        for layer, s in zip(self.layers, state, strict=True):
            x, s = layer.step(x, lengths, s)
            after.append(s)
        if self.memory:
            x = x + self.memory(x, lengths)
        return self.output(self.norm(x)), tuple(after)

    def loss(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return -ln p (b,) of each text (b, u) and its end."""
        start = self.init_state(len(tokens), device=tokens.device, dtype=self.output.weight.dtype)
        logits, _ = self.step(F.pad(tokens, (1, 0), value=BOUNDARY), lengths + 1, start)
        position = torch.arange(tokens.shape[1] + 1, device=tokens.device)
        target = F.pad(tokens, (0, 1)).masked_fill(position == lengths[:, None], BOUNDARY)  # the text, then its end
        loss = F.cross_entropy(logits.float().transpose(1, 2), target, reduction="none")
        return loss.masked_fill(position > lengths[:, None], 0).sum(1)
