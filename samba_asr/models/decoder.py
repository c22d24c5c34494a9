"""The Mamba decoder and its attention-free cross-connection.

Each layer reads the text so far (self mixer), then the speech: its cross mixer scans [memory ; text], encoder frames first,
and keeps the outputs at the text (ConMamba, arXiv 2407.09732; Samba-ASR, arXiv 2501.02832, gives no detail).  The scan over
the memory is causal, so the text sees the speech as one state of fixed size.  That state is updated chunk by chunk while audio
arrives.  At the end of speech the decoder is already conditioned, and scoring a hypothesis costs only its text.
Shapes: b batch, t encoder frames, u text positions, d d_model, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import DecoderConfig, Mamba2Config
from samba_asr.nn.dropout import Dropout
from samba_asr.nn.linear import FeedForward
from samba_asr.nn.mixers import Mamba2
from samba_asr.nn.mixers.mamba2 import Mamba2State
from samba_asr.streaming import State, mask
from samba_asr.text.units import BOUNDARY


class TextState(NamedTuple):
    """State of a layer after the speech and a beginning of a text."""

    own: Mamba2State  # of the self mixer, which reads the text alone
    cross: Mamba2State


class DecoderLayer(nn.Module):
    """Self mixer, cross mixer and feed-forward, each with a residual connection."""

    def __init__(self, config: DecoderConfig, d_memory: int):
        super().__init__()
        d = config.d_model
        mixer = Mamba2Config(d_state=config.d_state, expand=config.expand, headdim=config.headdim)
        self.self_norm, self.self_mixer = nn.LayerNorm(d), Mamba2(d, mixer)
        self.memory = nn.Sequential(nn.LayerNorm(d_memory), nn.Linear(d_memory, d))
        self.cross_norm, self.cross_mixer = nn.LayerNorm(d), Mamba2(d, mixer)
        self.feed_forward = FeedForward(d, 4, config.dropout)
        self.dropout = Dropout(config.dropout)

    def absorb(self, memory: Tensor, lengths: Tensor, state: Mamba2State) -> Mamba2State:
        """Return the cross mixer's state after more encoder frames (b, t, d_memory)."""
        return self.cross_mixer.step(self.memory(memory), lengths, state).state

    def init_text(self, memory: Mamba2State) -> TextState:
        """Return the state before a text, given the cross mixer's after the speech."""
        like = memory.conv
        return TextState(self.self_mixer.init_state(len(like), device=like.device, dtype=like.dtype), memory)

    def step(self, x: Tensor, lengths: Tensor, state: TextState) -> tuple[Tensor, TextState]:
        own = self.self_mixer.step(self.self_norm(x), lengths, state.own)
        x = x + self.dropout(own.x)
        cross = self.cross_mixer.step(self.cross_norm(x), lengths, state.cross)
        x = x + self.dropout(cross.x)
        return x + self.feed_forward(x), TextState(own.state, cross.state)


class MambaDecoder(nn.Module):
    """Autoregressive decoder over tokens, conditioned on encoder frames."""

    def __init__(self, config: DecoderConfig, d_memory: int, vocab_size: int):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.dropout = Dropout(config.dropout)
        layers = nn.ModuleList(DecoderLayer(config, d_memory) for _ in range(config.layers))
        self.layers = cast("Sequence[DecoderLayer]", layers)
        self.norm = nn.LayerNorm(config.d_model)
        self.output = nn.Linear(config.d_model, vocab_size)

    def init_memory(self, batch: int, *, device=None, dtype=None) -> State:
        """Return the memory before any speech: one cross-mixer state per layer, by default on the device of the weights."""
        weight = self.output.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        return tuple(layer.cross_mixer.init_state(batch, device=device, dtype=dtype) for layer in self.layers)

    def absorb(self, frames: Tensor | np.ndarray, lengths: Tensor | np.ndarray, memory: State) -> State:
        """Return the memory after `lengths` (b,) more encoder frames (b, t, d_memory).  Chunks of any size give the same."""
        if not isinstance(frames, Tensor):
            weight = self.output.weight
            frames = torch.from_numpy(frames).to(weight.device, weight.dtype)
        lengths = torch.as_tensor(lengths, device=frames.device)
        if frames.shape[1] == 0:
            return memory
        frames = mask(frames, lengths)
        return tuple(layer.absorb(frames, lengths, m) for layer, m in zip(self.layers, memory, strict=True))

    def forward(self, tokens: Tensor, lengths: Tensor, memory: State) -> Tensor:
        """Return logits (b, u + 1, v) of each next token and of the end, given tokens (b, u), `lengths` (b,) of them valid."""
        start = tokens.new_full((tokens.shape[0], 1), BOUNDARY)
        return self.step(torch.cat([start, tokens], dim=1), lengths + 1, self.init_text(memory))[0]

    def init_text(self, memory: State) -> State:
        """Return the state before a text, before the boundary that starts it too, of rows whose speech is in `memory`."""
        return tuple(layer.init_text(m) for layer, m in zip(self.layers, memory, strict=True))

    def step(self, tokens: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        """Process tokens (b, u), `lengths` (b,) of them valid; return logits (b, u, v) of each next token, and the state."""
        x, after = self.dropout(self.embedding(tokens)), []
        for layer, s in zip(self.layers, state, strict=True):
            x, s = layer.step(x, lengths, s)
            after.append(s)
        return self.output(self.norm(x)), tuple(after)

    def loss(self, tokens: Tensor, lengths: Tensor, memory: State, label_smoothing: float = 0.0) -> Tensor:
        """Return the summed cross-entropy (b,) of each text and its end, in nats.  Without smoothing: -log p(text | speech)."""
        logits = self(tokens, lengths, memory).float()
        position = torch.arange(tokens.shape[1] + 1, device=tokens.device)
        tokens = F.pad(tokens, (0, 1)).masked_fill(
            position == lengths[:, None], BOUNDARY
        )  # targets: the text, then its end
        loss = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none", label_smoothing=label_smoothing)
        return loss.masked_fill(position > lengths[:, None], 0).sum(1)
